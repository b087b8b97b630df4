# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration and validation images: disjoint, upright, with broken files named and skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.validation.images import read_image, split_images

ORIENTATION = 0x0112


def fill(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for index in range(count):
        pixels = rng.integers(0, 255, (4, 6, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_halves_are_disjoint_and_do_not_depend_on_names(tmp_path: Path) -> None:
    fill(tmp_path / "a", 60)
    (tmp_path / "a" / "again.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    sets = split_images(tmp_path / "a", least=15)
    assert sets.duplicates == 1
    assert len(sets.calibration) + len(sets.validation) == 60
    assert not {*sets.calibration} & {*sets.validation}
    (tmp_path / "b").mkdir()
    for index, path in enumerate(sets.validation):
        path.rename(tmp_path / "b" / f"x{index}.png")
    assert not split_images(tmp_path / "b", least=0).calibration


def test_broken_files_are_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 30)
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    assert split_images(tmp_path, least=5).skipped == 1
    assert "cut.png" in caplog.text
    with pytest.raises(ExportError, match=r"1 could not be read.*20 of each"):
        split_images(tmp_path, least=20)
    with pytest.raises(ExportError, match="is not a folder"):
        split_images(tmp_path / "nowhere")


def test_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = Image.new("RGB", (8, 4), (200, 10, 10))
    picture.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").shape == (8, 4, 3)
