# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the tagger of an encoder's bundle says of the objects that a caption names, or does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.world import SCENE_LABELS
from vlm_perception.evaluation.hallucination.synonyms import SYNONYMS_FILE, read_names
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder

Margins = Mapping[str, float]
"""By label how far an image's log-odds lie above the label's threshold."""


class Tags:
    """The labels of a bundle, found in images and in texts."""

    def __init__(self, bundle: ModelBundle, folder: Path) -> None:
        """Take the bundle's own labels, and what they are called in a folder's synonyms.yaml.

        Raises:
            BundleError: the bundle cannot be used.
            SynonymsError: the synonyms are damaged.
        """
        self._vocabulary = VocabularyBuilder(bundle).build(None, 1)
        # Weather and daylight, as the road world calls them, are no objects.
        things = [label for label in self._vocabulary.labels if label not in SCENE_LABELS]
        self._names = read_names(folder / SYNONYMS_FILE, things)

    def margins(self, embedding: NDArray[np.float32]) -> dict[str, float]:
        """Those of an image's embedding, [D]; labels that are never reached have none."""
        vocabulary = self._vocabulary
        found = vocabulary.margins(vocabulary.probabilities(embedding[np.newaxis]))[0]
        return {
            label: float(margin)
            for label, margin in zip(vocabulary.labels, found, strict=True)
            if np.isfinite(margin)
        }

    def parted(self, text: str, margins: Margins) -> tuple[dict[str, float], dict[str, float]]:
        """The margins of the objects that a text says are there, and of the others."""
        named = self._names.named(text)
        known = sorted(self._names.labels & margins.keys())
        return (
            {label: margins[label] for label in known if label in named},
            {label: margins[label] for label in known if label not in named},
        )
