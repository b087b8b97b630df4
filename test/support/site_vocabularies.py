# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Vocabulary files of a site, with random embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec
from vlm_perception.bundle.site_vocabulary import Making, as_text, site_vocabulary

LABELS = (
    LabelSpec(label="my loading bay", threshold=0.2, region_threshold=0.3, calibration_bias=2.0),
    LabelSpec(label="car"),
)


def write_site_vocabulary(
    file: Path, bundle: ModelBundle, labels: tuple[LabelSpec, ...] = LABELS
) -> Path:
    width = bundle.manifest.vision.embedding_width
    rows = np.random.default_rng(0).normal(size=(len(labels), width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = Making(prompts=None, images=0)
    file.write_text(as_text(site_vocabulary(bundle, labels, rows, made)), encoding="utf-8")
    return file
