# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""transformers as the gate asks it says what a bundle with the checkpoint's own geometry says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import make_checkpoint

from vlm_perception.deploy.checkpoints.load import load_checkpoint
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.validation.model_outputs import BundleModel
from vlm_perception.deploy.validation.transformers_reference import TransformersModel

FAMILIES: dict[str, dict[str, Any]] = {
    "siglip-llava-llama": {},
    "clip-llava-qwen2": {"family": "clip", "decoder": "qwen2"},
    "siglip-onevision-qwen2": {"language": "llava_onevision", "decoder": "qwen2"},
    "siglip-idefics3-llama": {"language": "idefics3"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_and_a_bundle_without_losses_say_the_same(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **FAMILIES[family])
    made = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(geometry="checkpoint"))
    bundle, theirs = BundleModel(made), TransformersModel(load_checkpoint(checkpoint, "same"), made)
    captions = set()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (60 + seed, 97, 3), np.uint8)
        ours, wanted = bundle.predict(image), theirs.predict(image)
        assert ours.pooled @ wanted.pooled > 0.9999
        scores = [
            model.vocabulary.probabilities(said.pooled[np.newaxis])
            for model, said in ((bundle, ours), (theirs, wanted))
        ]
        assert np.abs(scores[0] - scores[1]).max() < 0.01
        assert len(ours.attributes) == len(wanted.attributes) == 3
        for ours_each, wanted_each in zip(ours.attributes, wanted.attributes, strict=True):
            assert ours_each.choices == wanted_each.choices
            assert ours_each.probabilities == pytest.approx(wanted_each.probabilities, abs=0.01)
        assert ours.caption == wanted.caption
        captions.add(ours.caption)
    assert len(captions) > 1, "they read the image"
