# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a vision-language teacher says is stored once, and is what its bundle says on the robot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.vlm_reader import VlmReader
from vlm_perception.training.distillation.images.files import FolderOfImages
from vlm_perception.training.distillation.recipe import DistillationError, read_recipe
from vlm_perception.training.distillation.run import distil
from vlm_perception.training.distillation.teacher.store import WORDS, Taught
from vlm_perception.training.distillation.teacher.words import MANIFEST, read_words

SHIPPED = Path(__file__).parents[2] / "checkpoints/roadworld-nano"
QUESTION = {"name": "weather", "question": "what is the weather?", "choices": ["clear", "rain"]}


def test_captions_and_answers_are_those_of_the_model_and_are_stored_once(tmp_path: Path) -> None:
    photos = some_photos(tmp_path)
    teacher: dict[str, Any] = {
        "language": {"path": str(SHIPPED)},
        "caption": "describe the scene",
        "questions": [QUESTION],
        "store": str(tmp_path / "store"),
    }
    recipe = recipe_of(photos, teacher)
    distil(recipe, tmp_path / "one")
    folder = tmp_path / "store" / WORDS
    images = FolderOfImages(photos, ("en",), tmp_path)
    stored = read_words(folder, images)
    assert list(stored) == [(0, 0), (1, 0)]

    reader = VlmReader(str(SHIPPED))
    with Image.open(photos / "b.png") as opened:
        image = opened.convert("RGB")
    words = stored[1, 0]
    with torch.inference_mode():
        inputs = reader.inputs(image, "describe the scene")
        made = reader.model.generate(**inputs, max_new_tokens=96, do_sample=False)[0]
        told = made[inputs["input_ids"].shape[1] :]
        logits = reader.model(**{**inputs, "input_ids": made[None], "attention_mask": None}).logits
    assert words.caption == reader.processor.decode(told, skip_special_tokens=True).strip()
    whole = logits[0, -len(told) - 1 : -1].log_softmax(dim=-1)
    expected = whole[torch.arange(len(told)), told]
    np.testing.assert_allclose(words.log_probabilities, expected, atol=1e-4)
    assert words.ended
    assert "".join(words.tokens).strip() == words.caption
    assert words.tokens[-1] == "" != words.tokens[-2]

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
    recipe_of(photos, teacher | {"caption": "what is this?"})
    with pytest.raises(DistillationError, match="made otherwise: caption"):
        distil(recipe, tmp_path / "three")


def test_embeddings_are_the_checkpoint_s_and_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, store = some_photos(tmp_path), tmp_path / "store"
    teacher = {"encoder": str(SHIPPED), "labels": ["car", "cone"], "store": str(store)}
    recipe = recipe_of(photos, teacher)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
        with pytest.raises(DistillationError, match=r"leave the patches out"):
            distil(recipe, tmp_path / "one")
        assert not store.exists()
        recipe_of(photos, teacher | {"patches": False})
        distil(recipe, tmp_path / "two")
    taught = Taught(store)
    said = taught.batch([0, 1], [0, 0])

    reader = DualReader(SHIPPED / "dual")
    with torch.inference_mode():
        pictures = [Image.open(photos / f"{name}.png") for name in ("a", "b")]
        seen = reader.model.get_image_features(**reader.pixels(pictures)).pooler_output
    expected = torch.nn.functional.normalize(seen, dim=-1).numpy()
    np.testing.assert_allclose(said.pooled, expected, atol=1e-3)
    logits = expected @ taught.label_texts.T * taught.scale + taught.bias
    likely = np.take_along_axis(1 / (1 + np.exp(-logits)), said.label_ids, axis=1)
    np.testing.assert_allclose(said.label_probabilities, likely, atol=1e-3)
    assert not list(store.rglob(".*"))

    # Of a pass that was killed before its first shard: whatever has no manifest is begun anew.
    (store / "teacher.json").rename(store / "teacher.json.0123456789abcdef.part")
    shutil.rmtree(store / "000000")
    distil(recipe, tmp_path / "three")
    np.testing.assert_array_equal(Taught(store).batch([0, 1], [0, 0]).pooled, said.pooled)


def test_a_label_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    teacher = {"encoder": str(SHIPPED), "labels": ["car", "cone", "car"]}
    with pytest.raises(DistillationError, match="`labels` names car more than once"):
        read_recipe(recipe_of(some_photos(tmp_path), teacher))


def some_photos(folder: Path) -> Path:
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        cv2.imwrite(str(photos / f"{name}.png"), rng.integers(0, 256, (180, 320, 3), np.uint8))
    return photos


def recipe_of(photos: Path, teacher: dict[str, Any]) -> Path:
    images = {"kind": "folder", "path": str(photos)}
    recipe = photos.parent / "recipe.yaml"
    content = {"name": "x", "images": images, "views": {"gain": 0.0}, "teacher": teacher}
    recipe.write_text(json.dumps(content))
    return recipe
