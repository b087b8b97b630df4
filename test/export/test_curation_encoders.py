# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The encoders of a recipe give what their models give, whatever else is embedded beside."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from support.checkpoints import make_checkpoint, make_siglip2_tokenizer
from transformers import AutoImageProcessor, AutoTokenizer, Siglip2Tokenizer

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.curation.encoders import Encoder, open_encoder
from vlm_perception.curation.image_files import encoded
from vlm_perception.curation.quality.pair_scores import PairScores
from vlm_perception.curation.recipe import EncoderSpec, Quality
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.deploy.checkpoints.families import DUAL_FAMILIES
from vlm_perception.modeling.pixel_scaling import read_json
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.text_tower import TextTower
from vlm_perception.types import Frame

SIZES = ((90, 160), (64, 48), (31, 77))
TEXTS = ["a Red car", "a bus", "two cars and a bus <eos> " * 40]


def opened(kind: str, path: Path | str, folder: Path) -> Encoder:
    spec: Any = TypeAdapter(EncoderSpec).validate_python({"kind": kind, "path": str(path)})
    return open_encoder(spec, folder)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def unit(found: Any) -> Any:
    rows = found.pooler_output
    return (rows / rows.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize("family", ["siglip", "clip", "siglip2"])
@torch.no_grad()
def test_checkpoints_embed_as_transformers_does(
    family: str, request: Any, tmp_path: Path, images: list[Any]
) -> None:
    path = (
        make_checkpoint(
            tmp_path / "siglip2",
            family="siglip2",
            language=None,
            dual_tokenizer=make_siglip2_tokenizer(),
        )
        if family == "siglip2"
        else request.getfixturevalue(f"{family}_checkpoint")
    )
    encoder, dual = opened("checkpoint", path, tmp_path), path / "dual"
    kind = read_json(dual / "config.json")["model_type"]
    model = DUAL_FAMILIES[kind].model_class.from_pretrained(dual)
    processor = AutoImageProcessor.from_pretrained(dual, backend="pil")
    pixels = [processor(images=image, return_tensors="pt") for image in images]
    theirs = np.concatenate([unit(model.get_image_features(**each)) for each in pixels])
    assert np.abs(encoder.images(images) - theirs).max() < 1e-6
    # For all checkpoints of SigLIP 2, whatever class they name.
    reader = Siglip2Tokenizer if family == "siglip2" else AutoTokenizer
    tokenizer = reader.from_pretrained(dual)
    length = model.config.text_config.max_position_embeddings
    full = {"padding": "max_length", "truncation": True, "max_length": length}
    ids = tokenizer(TEXTS[:2], **full, return_tensors="pt")["input_ids"]
    theirs = unit(model.get_text_features(input_ids=ids))
    assert np.abs(encoder.texts(TEXTS[:2]) - theirs).max() < 1e-6
    assert [encoder.reads_whole(text) for text in TEXTS] == [True, True, False]
    assert np.isfinite(encoder.texts(TEXTS[2:])).all()


def test_bundles_embed_as_on_the_robot(tmp_path: Path, images: list[Any]) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    encoder = opened("bundle", "roadworld-nano", tmp_path)
    assert encoder is opened("bundle", "roadworld-nano", tmp_path)
    assert encoder.digest == bundle.digest
    vision, tower = VisionEncoder(bundle, temporal=False), TextTower.load(bundle)
    theirs = np.stack([vision.encode(Frame(image, 0), 0).pooled for image in images])
    ours = encoder.images(images)
    assert np.abs(ours - theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).max() < 1e-6
    assert np.array_equal(ours[1:], encoder.images(images[1:]))
    assert np.abs(encoder.texts(TEXTS) - tower.embed_each(TEXTS)).max() < 1e-6
    assert np.array_equal(encoder.texts(TEXTS)[1:2], encoder.texts(TEXTS[1:2]))


def test_a_bundle_tags_for_an_encoder_that_has_none(clip_checkpoint: Path, tmp_path: Path) -> None:
    street = next(iter(Streets(range(7_000_002, 7_000_003), (320, 180)))).image
    content = encoded(street, ()).file
    record = {"file": "a.jpg", "sha256": hashlib.sha256(content).hexdigest()}
    bundle = {"kind": "bundle", "path": "roadworld-nano"}
    seen = []
    for encoder, tagger in (
        (bundle, None),
        ({"kind": "checkpoint", "path": str(clip_checkpoint)}, "roadworld-nano"),
    ):
        quality = Quality.model_validate(
            {"encoder": encoder, "tagger": tagger, "thresholds": "calibrated", "prefix": ""}
            | {"reject_contradicted": True}
        )
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        (folder / "a.jpg").write_bytes(content)
        (found,) = PairScores(folder, quality).evidence(record, ["a car"])
        seen.append((found.named, found.unnamed))
    assert seen[0] == seen[1]
    assert "car" in seen[0][0] and seen[0][1]


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    for kind in ("bundle", "checkpoint"):
        with pytest.raises(VlmPerceptionError, match="nowhere"):
            opened(kind, "nowhere", tmp_path)
