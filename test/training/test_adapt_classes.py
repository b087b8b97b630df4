# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`adapt classes`: from a list of labels to a vocabulary file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.site_vocabulary import read_site_vocabulary
from vlm_perception.cli import app
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.load import round_to_half
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder


def adapt(bundle: ModelBundle, labels: str, out: Path, *options: str) -> tuple[int, str]:
    file = out.parent / "labels.txt"
    file.write_text(labels, encoding="utf-8")
    words = ["adapt", "classes", "--bundle", str(bundle.path), "--labels", str(file)]
    told = CliRunner().invoke(app, [*words, "--out", str(out), *options])
    return told.exit_code, " ".join(told.output.split())


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_hand_written_prompts_are_embedded_as_transformers_does(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: ModelBundle = request.getfixturevalue(f"{family}_bundle")
    checkpoint: Path = request.getfixturevalue(f"{family}_checkpoint")
    out = tmp_path / "site.vocabulary"
    assert adapt(bundle, "truck\n\n a red bus \n", out)[0] == 0
    site = read_site_vocabulary(out, bundle)
    assert [each.label for each in site.labels] == ["truck", "a red bus"]
    reader = DualReader(checkpoint / "dual")
    model = AutoModel.from_pretrained(checkpoint / "dual").eval()
    round_to_half(model)
    for label, row in zip(site.labels, site.rows, strict=True):
        wordings = [f"a {label.label}", f"there is a {label.label} on the road"]
        with torch.no_grad():
            found = model.get_text_features(reader.ids(wordings)).pooler_output
        mean = torch.nn.functional.normalize(found, dim=-1).mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=2e-5)
    assert VocabularyBuilder(bundle).read(out, 7).version == 7


def test_images_set_the_thresholds(
    siglip_bundle: ModelBundle, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site.vocabulary"
    code, told = adapt(siglip_bundle, "truck\nbus\n", out, "--images", str(photos))
    assert code == 0, told
    site = read_site_vocabulary(out, siglip_bundle)
    assert site.made.images > 100 and (tmp_path / "site.vocabulary.html").exists()
    assert all(each.threshold is not None for each in site.labels)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("", "holds no label"),
        ("car\ncar\n", "listed twice"),
        ("word " * 39, "the text tower takes 24"),
        ("\n".join(f"label {i}" for i in range(513)), "513 labels are too many"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    siglip_bundle: ModelBundle, tmp_path: Path, labels: str, reason: str
) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(labels.encode("utf-8", "surrogateescape"))
    words = ["adapt", "classes", "--bundle", str(siglip_bundle.path), "--labels", str(file)]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert told.exit_code == 2 and reason in " ".join(told.output.split())
    assert not (tmp_path / "out").exists()


def test_labels_of_the_same_tokens_are_refused_and_foreign_files_stay(
    clip_bundle: ModelBundle, tmp_path: Path
) -> None:
    out = tmp_path / "site.vocabulary"
    code, told = adapt(clip_bundle, "Car\ncar\n", out)
    assert code == 2 and "'Car' and 'car' are the same tokens" in told
    out.write_text("mine")
    assert adapt(clip_bundle, "car\n", out)[0] == 2 and out.read_text() == "mine"
