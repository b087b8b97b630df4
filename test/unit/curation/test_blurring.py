# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What may name a person is blurred in all stages after 00_raw, until it is not found again."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
from support.curation import curate, prepare

from vlm_perception.curation.filtering import blurring
from vlm_perception.curation.filtering.image_figures import image_figures
from vlm_perception.curation.image_files import decode
from vlm_perception.media.image_errors import ImageError

PLATE = (165, 220, 150, 36)


def car(plate=True):
    image = np.full((360, 480, 3), 90, np.uint8)
    cv2.rectangle(image, (100, 120), (380, 300), (60, 60, 140), -1)
    if plate:
        left, top, width, height = PLATE
        corners = (left, top), (left + width, top + height)
        cv2.rectangle(image, *corners, (240, 240, 240), -1)
        cv2.rectangle(image, *corners, (10, 10, 10), 2)
        place, font = (left + 8, top + 26), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(image, "A123BC 77", place, font, 0.75, (10, 10, 10), 2, cv2.LINE_AA)
    return image


def strokes(pixels, kind):
    """Finds the plate by its strokes; where OpenCV has a detector, that one is taken."""
    left, top, width, height = PLATE
    part = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[top : top + height, left : left + width]
    return [PLATE] if cv2.Laplacian(part, cv2.CV_16S).std() > 3 else []


def test_plates_are_blurred_in_a_file_of_their_own(tmp_path, monkeypatch):
    images, folder = tmp_path / "images", tmp_path / "set"
    images.mkdir()
    for name, plate in (("plate", True), ("plain", False)):
        cv2.imwrite(str(images / f"{name}.png"), car(plate))
    prepare(folder, {"kind": "folder", "path": "../images"}, blur=["plates"])
    if not hasattr(cv2, "CascadeClassifier"):
        assert "opencv-python<5" in curate("run", folder, code=2)
        monkeypatch.setattr(blurring, "find_regions", strokes)
        monkeypatch.setattr(
            "vlm_perception.curation.filtering.filtered.require_detectors", lambda kinds: None
        )
    curate("run", folder)
    found, raw = (
        {each["path"]: each for each in map(json.loads, (folder / stage / "kept.jsonl").open())}
        for stage in ("01_filtered", "00_raw")
    )
    assert found["plain.png"]["file"] == raw["plain.png"]["file"]
    assert found["plain.png"]["blurred"] == {"plates": 0}
    record, before = found["plate.png"], raw["plate.png"]
    assert (record["blurred"], record["changed"]) == ({"plates": 1}, ["plates blurred: 1"])
    # Copies are known by the original, whatever is found on them.
    original = image_figures(decode((folder / before["file"]).read_bytes()))
    assert (record["phash"], record["sharpness"]) == (
        f"{original.phash:016x}",
        round(original.sharpness, 3),
    )
    stored = (folder / record["file"]).read_bytes()
    assert record["file"].startswith("01_filtered/images/")
    assert hashlib.sha256(stored).hexdigest() == record["sha256"] != record["unblurred"]
    assert record["unblurred"] == before["sha256"]
    assert (folder / before["file"]).read_bytes() == (images / "plate.png").read_bytes()
    pixels = decode(stored)
    assert pixels.shape == car().shape
    assert blurring.find_regions(pixels, "plates") == []
    away = np.ones(pixels.shape[:2], bool)
    away[180:290, 130:350] = False
    assert np.abs(pixels[away].astype(int) - car()[..., ::-1][away]).mean() < 1
    curate("report", folder)
    page = (folder / "report.html").read_text()
    assert "faces or number plates blurred" in page
    assert "plates: 1" in page


def test_what_is_found_again_gets_one_colour_or_fails(monkeypatch):
    later = (10, 10, 60, 40)
    script = iter([[PLATE], [PLATE, later], [PLATE], [PLATE], []])
    monkeypatch.setattr(blurring, "find_regions", lambda *_: next(script))
    image, counts = blurring.blur_regions(car()[..., ::-1], ["plates"])
    assert counts == {"plates": 2}
    left, top, width, height = PLATE
    plate = decode(image.file)[top : top + height, left : left + width]
    assert plate.std(axis=(0, 1)).max() <= 1
    monkeypatch.setattr(blurring, "find_regions", lambda *_: [PLATE])
    with pytest.raises(ImageError, match="even where it was made one colour"):
        blurring.blur_regions(car()[..., ::-1], ["plates"])


@pytest.mark.parametrize("box", [(0, 0, 9, 5), (470, 350, 30, 30), (100, 120, 1, 1)])
def test_any_region_can_be_blurred(box):
    noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    left, top, width, height = box
    part = np.s_[top : top + height, left : left + width]
    for squares in blurring.SQUARES:
        made = blurring.blurred(noise, box, squares)
        assert made.shape == noise.shape
        assert np.count_nonzero(made != noise) <= 3 * 2 * max(4, width * height)
        assert made[part].std() <= noise[part].std()
