# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The gate: a bundle that says something else than its checkpoint is measured and refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.checkpoints import make_checkpoint

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.validation import images
from vlm_perception.deploy.validation.model_outputs import Answers, BundleModel, ask
from vlm_perception.deploy.validation.parity import TOLERANCES, agreement, as_table, exceeded
from vlm_perception.types import Attribute

COUNT = 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of colour, each picture another."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(5)
    for index in range(COUNT):
        blocks = Image.fromarray(rng.integers(0, 255, (4, 7, 3), np.uint8))
        blocks.resize((96, 54), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.split_images, "__kwdefaults__", {"least": 5, "most": 12})


def test_a_bundle_agrees_with_itself_in_full(siglip_bundle: ModelBundle, pictures: Path) -> None:
    paths = sorted(pictures.iterdir())[:6]
    answers = ask(BundleModel(siglip_bundle), paths)
    same = agreement(answers, answers)
    assert same.cosine_min == pytest.approx(1.0, abs=1e-5)
    assert (same.tag_top1, same.attributes, same.captions) == (1.0, 1.0, 1.0)
    assert not exceeded(same, "itself")
    other = dataclasses.replace(
        answers, pooled=-answers.pooled, scores=1 - answers.scores, holds=~answers.holds
    )
    faults = exceeded(agreement(answers, other), "its opposite")
    assert {"cosine_mean", "cosine_min", "tags_f1"} <= {fault.split()[0] for fault in faults}


def said(scores: list[list[float]], attributes: list[tuple[float, float]]) -> Answers:
    """Answers with these probabilities of labels and of one yes/no question, by image."""
    table = np.array(scores, np.float32)
    asked = [
        (Attribute("wet", ("no", "yes")[yes > no], ("no", "yes"), (no, yes)),)
        for no, yes in attributes
    ]
    pooled = np.eye(len(table), dtype=np.float32)
    return Answers(pooled, table, table >= 0.5, asked, ["a car"] * len(table), [None] * len(table))


def test_a_tie_that_falls_otherwise_is_no_drift_and_a_lost_label_is() -> None:
    reference = said(
        [[0.999, 0.998, 0.1], [0.9, 0.2, 0.1]],
        [(0.52, 0.48), (0.9, 0.1)],
    )
    tied = said([[0.998, 0.999, 0.1], [0.9, 0.2, 0.1]], [(0.48, 0.52), (0.9, 0.1)])
    found = agreement(tied, reference)
    assert (found.tag_top1, found.tag_top1_tied, found.tags_f1) == (0.5, 1.0, 1.0)
    assert (found.attributes, found.attributes_tied) == (0.5, 1.0)
    assert not exceeded(found, "the reference")
    lost = said([[0.999, 0.3, 0.1], [0.1, 0.2, 0.9]], [(0.52, 0.48), (0.1, 0.9)])
    found = agreement(lost, reference)
    assert (found.tag_top1, found.tag_top1_tied) == (0.5, 0.5)
    assert (found.attributes, found.attributes_tied) == (0.5, 0.5)
    assert found.tags_f1 == pytest.approx(2 * 1 / (3 + 2))
    faults = exceeded(found, "the reference")
    assert [f.split()[0] for f in faults] == ["tag_top1_tied", "tags_f1", "attributes_tied"]


def test_figures_stand_in_the_manifest(
    siglip_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    made = export_bundle(siglip_checkpoint, tmp_path / "b", ExportOptions(calibration=pictures))
    validation = made.manifest.validation
    assert validation is not None
    assert 5 <= validation.images <= 12
    # Nothing was pruned or quantized; the square processor sees another picture.
    assert validation.dense.cosine_min == pytest.approx(1.0, abs=1e-5)
    assert validation.checkpoint is not None
    assert validation.checkpoint.cosine_mean < 0.9999
    assert not validation.drift_accepted
    console = Console(record=True, width=80)
    console.print(as_table(validation))
    text = console.export_text()
    assert "own processor" in text
    assert f"{validation.dense.tags_f1:.4f}" in text
    assert "…" not in text, "it fits into a terminal"


def test_too_large_an_accuracy_drop_is_refused_unless_accepted(
    pictures: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("dual") / "checkpoint", language=None)
    out = tmp_path / "pruned"
    options = ExportOptions(keep="0.2@0", calibration=pictures)
    with pytest.raises(
        ExportError, match=r"accuracy drop is too large.*cosine_mean compared with the dense model"
    ):
        export_bundle(checkpoint, out, options)
    assert not list(tmp_path.iterdir()), "neither a bundle nor half of one is left"
    accepted = dataclasses.replace(options, accept_drop=True)
    validation = export_bundle(checkpoint, out, accepted).manifest.validation
    assert validation is not None
    assert validation.drift_accepted
    assert validation.dense.cosine_mean < TOLERANCES["cosine_mean"]
