# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The text embeddings of a bundle's own labels, made at export and stored beside the graphs."""

from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import TEXT_GRAPH, BundleError, ModelBundle
from vlm_perception.bundle.files import read_array
from vlm_perception.bundle.manifest import LabelSpec, Manifest, VocabularySpec

_log = logging.getLogger(__name__)


def prompts_of(spec: LabelSpec, vocabulary: VocabularySpec) -> list[str]:
    """The texts whose mean embedding stands for a label."""
    templates = spec.templates or vocabulary.templates
    return [template.replace("{label}", spec.label) for template in templates]


def own_prompts(vocabulary: VocabularySpec) -> dict[str, list[str]]:
    """The prompts of each label that a bundle starts with."""
    return {spec.label: prompts_of(spec, vocabulary) for spec in vocabulary.labels}


def text_digest(manifest: Manifest) -> str:
    """Hash of all that the embeddings of the labels follow from: prompts, tokenizer, text tower."""
    text = manifest.text
    read = {
        name: entry.sha256
        for name, entry in manifest.files.items()
        if name == text.tokenizer or name.startswith(TEXT_GRAPH)
    }
    content = [own_prompts(manifest.vocabulary), read, text.length, text.pad_token_id]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_label_embeddings(bundle: ModelBundle) -> dict[str, NDArray[np.float32]]:
    """The stored embedding of each of the bundle's labels, [D] and L2-normalised.

    Returns:
        Nothing for a bundle without them, or where they were made for other labels or prompts.

    Raises:
        BundleError: the file holds something else.
    """
    manifest = bundle.manifest
    spec, labels = manifest.label_embeddings, manifest.vocabulary.labels
    if spec is None:
        return {}
    if spec.made_of != text_digest(manifest):
        _log.warning(
            "bundle %s: the stored embeddings of its labels were made for other labels, prompts "
            "or another text model; they are computed again at each start. Export the bundle again",
            bundle.path,
        )
        return {}
    rows = read_array(bundle.file(spec.file))
    shape = (len(labels), manifest.vision.embedding_width)
    if rows.dtype != np.float32 or rows.shape != shape or not np.isfinite(rows).all():
        raise BundleError(
            f"bundle {bundle.path}: {spec.file} does not hold a finite float32 {list(shape)}. "
            "Export the bundle again"
        )
    return {label.label: row for label, row in zip(labels, rows, strict=True)}
