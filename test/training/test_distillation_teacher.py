# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a vision-language teacher says is stored once, and is what its bundle says on the robot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from vlm_perception.deploy.checkpoints.vlm_reader import VlmReader
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.distillation.run import distil
from vlm_perception.training.distillation.teacher.make import WORDS
from vlm_perception.training.distillation.teacher.words import MANIFEST, read_words

SHIPPED = Path(__file__).parents[2] / "checkpoints/roadworld-nano"
QUESTION = {"name": "weather", "question": "what is the weather?", "choices": ["clear", "rain"]}


def test_captions_and_answers_are_those_of_the_model_and_are_stored_once(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        cv2.imwrite(str(photos / f"{name}.png"), rng.integers(0, 256, (180, 320, 3), np.uint8))
    teacher: dict[str, Any] = {
        "language": {"kind": "checkpoint", "path": str(SHIPPED)},
        "caption": "describe the scene",
        "questions": [QUESTION],
        "store": str(tmp_path / "store"),
    }
    content: dict[str, Any] = {"name": "x", "views": {"gain": 0.0}, "teacher": teacher}
    content["images"] = {"kind": "folder", "path": str(photos)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(content))
    distil(recipe, tmp_path / "one")
    folder = tmp_path / "store" / WORDS
    stored = list(read_words(folder))
    assert [each[:2] for each in stored] == [(0, 0), (1, 0)]

    reader = VlmReader(str(SHIPPED))
    with Image.open(photos / "b.png") as opened:
        image = opened.convert("RGB")
    words = stored[1][2]
    with torch.inference_mode():
        inputs = reader.inputs(image, "describe the scene")
        made = reader.model.generate(**inputs, max_new_tokens=96, do_sample=False)[0]
        told = made[inputs["input_ids"].shape[1] :]
        logits = reader.model(**{**inputs, "input_ids": made[None], "attention_mask": None}).logits
    assert words.caption == reader.processor.decode(told, skip_special_tokens=True).strip()
    whole = logits[0, -len(told) - 1 : -1].log_softmax(dim=-1)
    expected = whole[torch.arange(len(told)), told]
    np.testing.assert_allclose(words.log_probabilities, expected, atol=1e-4)

    means = []
    for choice in ("clear", "rain"):
        # As the model was trained: a blank before the answer, and the token that ends it.
        ids = reader.processor.tokenizer(
            f" {choice}{reader.processor.tokenizer.eos_token}", add_special_tokens=False
        )["input_ids"]
        asked = reader.inputs(image, "what is the weather?")
        tokens = torch.cat((asked["input_ids"], torch.tensor([ids])), dim=1)
        with torch.inference_mode():
            scores = reader.model(input_ids=tokens, pixel_values=asked["pixel_values"]).logits
        likely = scores[0, -len(ids) - 1 : -1].log_softmax(dim=-1)
        means.append(float(likely[range(len(ids)), ids].mean()))
    powers = np.exp(np.array(means) - max(means))
    np.testing.assert_allclose(words.answers["weather"], powers / powers.sum(), atol=1e-4)

    before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    distil(recipe, tmp_path / "two")
    assert before == {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert MANIFEST in before
    teacher["caption"] = "what is this?"
    recipe.write_text(json.dumps(content))
    with pytest.raises(DistillationError, match="made otherwise: caption"):
        distil(recipe, tmp_path / "three")
