# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which objects are looked for in captions: those of the images, and others that are invented."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.datasets.object_mentions import ObjectNames
from vlm_perception.datasets.roadworld.world import SCENE_LABELS
from vlm_perception.evaluation.hallucination.synonyms import SYNONYMS_FILE, read_names
from vlm_perception.evaluation.image_data import home
from vlm_perception.evaluation.labelled_images import LabelledSet

SHOWN = 10
"""How many labels a sentence names; it counts the others."""


@dataclass(frozen=True)
class LookedFor:
    """Labels, and what must be known of them to read figures."""

    names: ObjectNames
    in_no_image: tuple[str, ...]
    """Those that are an invention wherever they are named."""

    @classmethod
    def of(cls, chosen: LabelledSet, data: Path | None, vocabulary: Iterable[str]) -> LookedFor:
        """The labels of a set; those of a folder with its synonyms and with a vocabulary.

        The vocabulary is left aside on the road world, all of whose objects are known.

        Args:
            chosen: labelled images.
            data: their folder; None: the road world.
            vocabulary: of the bundles. Weather and daylight, as the road world calls them, are no
                objects; see `read_names` for others that are not looked for.

        Raises:
            SynonymsError: the folder's synonyms are damaged.
        """
        if data is None:
            return cls(ObjectNames(chosen.labels), ())
        things = [label for label in vocabulary if label not in SCENE_LABELS]
        names = read_names(home(data) / SYNONYMS_FILE, chosen.labels, things)
        return cls(names, tuple(sorted(names.labels - set(map(names.label, chosen.labels)))))

    @property
    def identity(self) -> str:
        """Digest of all names."""
        return hashlib.sha256(self.names.described.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "labels": len(self.names.labels),
            "in_no_image": list(self.in_no_image),
            "joined": self.names.joined,
        }

    def notes(self) -> list[str]:
        """A sentence each."""
        count = len(self.names.labels)
        notes = [f"{count} labels are looked for; a caption that names anything else is not caught"]
        if self.in_no_image:
            notes.append(
                f"{len(self.in_no_image)} of them are in no image, an invention wherever they are "
                f"named: {_some(self.in_no_image)}. Say in {SYNONYMS_FILE} which of them are "
                "another word for a label (synonyms), or are not labelled at all (others)"
            )
        if self.names.joined:
            pairs = [f"{label} with {other}" for label, other in self.names.joined.items()]
            notes.append(f"Labels that are one: {_some(pairs)}")
        return notes


def _some(items: Iterable[str]) -> str:
    every = list(items)
    rest = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
