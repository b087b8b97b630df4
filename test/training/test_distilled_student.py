# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A student sees what its exported tower sees, and learns the same in parts as at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support import small_student
from support.checkpoints import make_checkpoint
from support.small_student import SIZE, step, student
from torch.nn import functional

from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import look
from vlm_perception.datasets.roadworld.truth import seen_in
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.files import copy_checkpoint
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.modeling.pixel_scaling import read_normalisation
from vlm_perception.training.distillation.examples import View
from vlm_perception.training.distillation.images.pixels import crop
from vlm_perception.training.distillation.learned import Learned, overlap, read_learned
from vlm_perception.training.distillation.losses.captions import contrastive, matches
from vlm_perception.training.distillation.recipe import CutStudent
from vlm_perception.training.distillation.student.cut import cut
from vlm_perception.training.distillation.student.encoder import StudentEncoder
from vlm_perception.training.distillation.student.objective import LOSSES
from vlm_perception.training.drift import WINDOW, Drift
from vlm_perception.training.tower import forget


@pytest.mark.parametrize("family", ["siglip", "clip"])
@pytest.mark.parametrize("size", [SIZE, (128, 32)], ids=["resized positions", "as many positions"])
def test_a_student_is_trained_on_what_its_exported_tower_gives(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    encoder = student(family, tmp_path, "0.5@1", size)
    image = torch.randint(0, 256, (1, size[1], size[0], 3), dtype=torch.uint8)
    scaling = read_normalisation(tmp_path / "begun")
    vision = encoder.reader.family.vision
    for pruned in (False, True):
        graph = vision(
            encoder.model,
            positions=vision.parts(encoder.model.vision_model).positions.of_grid(*encoder.grid),
            mean=scaling.mean,
            std=scaling.std,
            feature_layers=[-1],
            keep=encoder.keep if pruned else (),
        )
        with torch.no_grad():
            exported = graph(image)
            with torch.autocast("cpu", enabled=False):
                seen = encoder.see_in_full(image, pruned)
        torch.testing.assert_close(
            functional.normalize(seen.pooled, dim=-1), exported[0], atol=1e-4, rtol=0
        )
        kept = seen.index.shape[1]
        patches = functional.normalize(seen.patches, dim=-1)
        torch.testing.assert_close(patches, exported[2][:, :kept], atol=1e-4, rtol=0)
        if pruned:
            assert torch.equal(seen.index[0], exported[3][:-1])


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_micro_batches_and_recomputed_layers_give_the_gradients_of_the_whole_batch(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_perception.training.distillation.student.encoder.HALF_ON_CPU", "none")
    encoder = student(family, tmp_path, "0.5@1")
    whole = step(encoder, 4)
    wanted = [each.grad for each in encoder.parameters()]
    forget(encoder.model.vision_model)
    parts = step(encoder, 1)
    assert whole.keys() == parts.keys() == set(LOSSES)
    assert parts == pytest.approx(whole, rel=1e-5)
    for mine, other in zip(encoder.parameters(), wanted, strict=True):
        if other is not None and float(other.norm()) > 1e-6:
            assert mine.grad is not None
            assert float((mine.grad - other).norm()) < 1e-5 * float(other.norm())


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_a_student_that_was_cut_is_an_ordinary_checkpoint(family: str, tmp_path: Path) -> None:
    source = dual_folder(str(make_checkpoint(tmp_path / "teacher", family=family, language=None)))
    reader, folder = DualReader(source), tmp_path / "student"
    size = reader.model.config.vision_config.image_size
    folder.mkdir()
    copy_checkpoint(source, folder, weights=False)
    images = torch.randint(0, 256, (8, size, size, 3), dtype=torch.uint8)
    start = CutStudent(kind="cut", vision_layers=2, text_layers=1, heads=0.5, neurons=0.5)
    model = cut(reader, source, start, images)
    model.save_pretrained(folder)
    again = StudentEncoder(folder, (size, size)).model
    pixels = torch.rand(2, 3, size, size)
    with torch.no_grad():
        wanted, found = (each.get_image_features(pixels).pooler_output for each in (model, again))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_images_without_captions_teach_nothing_of_texts() -> None:
    logits, own = (
        torch.randn(3, 3, generator=torch.Generator().manual_seed(0)),
        [("a",), (), ("b",)],
    )
    same = matches(own, ["a", "", "b"])
    for softmax in (False, True):
        some = contrastive(logits[::2, ::2], same[::2, ::2], softmax)
        torch.testing.assert_close(contrastive(logits, same, softmax), some)


def test_two_processes_give_the_losses_and_gradients_of_one(tmp_path: Path) -> None:
    """Each sees half of the batch; sums of floats differ by their order, in BF16 by more."""
    encoder = student("siglip", tmp_path)
    losses = step(encoder, 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, small_student.__file__, str(tmp_path)]
    subprocess.run(program, env=os.environ | both, check=True, timeout=120)
    assert json.loads((tmp_path / "two.json").read_text()) == pytest.approx(losses, rel=1e-4)
    whole, parts = (
        torch.cat([each.flatten() for each in some if each is not None])
        for some in (
            [each.grad for each in encoder.parameters()],
            torch.load(tmp_path / "two.pt", weights_only=True),
        )
    )
    assert float((whole - parts).norm()) < 5e-3 * float(whole.norm())


def test_the_truth_of_a_view_is_that_of_its_pixels() -> None:
    street = look(sample_scene(3), (640, 360))
    assert seen_in(street.truth, street.rendered.ids) == street.truth
    view = View(0.25, 0.25, 0.5)
    ids = crop(street.rendered.ids, view)
    part = seen_in(street.truth, ids)
    assert {thing.identity for thing in part.objects} == set(np.unique(ids)) - {0}
    for thing in part.objects:
        assert thing.share == np.count_nonzero(ids == thing.identity) / ids.size
    twice = crop(crop(ids, View(mirrored=True)), View(mirrored=True))
    assert np.array_equal(twice, ids)


def test_drift_is_told_once_and_only_when_losses_part() -> None:
    drift = Drift()
    together = [drift.take({"a": 1.0 - 0.02 * i, "b": 2.0 - 0.02 * i}) for i in range(3 * WINDOW)]
    assert not any(together)
    apart = [drift.take({"a": 0.5 + 0.1 * i, "b": 1.5 - 0.1 * i}) for i in range(2 * WINDOW)]
    assert {"rises": ["a"], "falls": ["b"]} in apart


def test_a_teacher_is_known_to_remember_what_it_was_trained_on(tmp_path: Path) -> None:
    learned = Learned(seeds=((0, 100),), images=frozenset({"aa", "bb"}))
    (tmp_path / "dual").mkdir()
    assert read_learned(tmp_path / "dual") is None
    learned.write(tmp_path)
    assert read_learned(tmp_path / "dual") == learned
    assert overlap(learned, Learned(seeds=((100, 200),), images=frozenset({"cc"}))) is None
    seeds = overlap(learned, Learned(seeds=((90, 200),)))
    images = overlap(learned, Learned(images=frozenset({"bb", "cc"})))
    assert seeds is not None
    assert images is not None
    assert (seeds.count, images.count) == (10, 1)
