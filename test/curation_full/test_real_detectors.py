# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The detectors that OpenCV 4 ships find what they should, and nothing where it was blurred."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from support.places import ROOT
from support.troubled_images import SIZE, with_face, with_plate

from vlm_perception.curation.filtering.blurring import blur_regions
from vlm_perception.curation.filtering.private_regions import find_regions
from vlm_perception.curation.image_files import decode
from vlm_perception.media.image_errors import ImageError

# Left, top, right and bottom of what is drawn.
FACE, PLATE = (135, 62, 265, 238), (110, 180, 290, 220)
PICTURES = [ROOT / "docs" / "img" / name for name in ("rerun.png", "roadworld.png")]
JPEG_ERROR = 12
"""By which the pixels of the stored file differ, where nothing is blurred, in nearly all places."""


def grey_wall() -> PIL.Image.Image:
    rows = np.linspace(70, 160, SIZE[1]).astype(np.uint8)
    return PIL.Image.fromarray(np.repeat(rows[:, None], SIZE[0], axis=1)).convert("RGB")


@pytest.mark.parametrize(
    ("kind", "drawn", "place", "mirrored"),
    [
        ("faces", with_face, FACE, False),
        ("faces", with_face, FACE, True),
        ("plates", with_plate, PLATE, False),
    ],
)
def test_what_is_drawn_is_found_and_blurred_and_the_rest_stays(kind, drawn, place, mirrored):
    pixels = np.asarray(drawn(grey_wall()))
    left, top, right, bottom = place
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        left, right = SIZE[0] - right, SIZE[0] - left
    boxes = find_regions(pixels, kind)
    assert boxes
    for x, y, width, height in boxes:
        across = min(x + width, right) - max(x, left)
        down = min(y + height, bottom) - max(y, top)
        assert across > 0
        assert down > 0
        assert across * down > 0.5 * width * height
    image, counts = blur_regions(pixels, [kind])
    assert counts[kind] >= 1
    stored = decode(image.file)
    assert find_regions(stored, kind) == []
    change = np.abs(stored.astype(int) - pixels).max(axis=2)
    inside = np.zeros(change.shape, bool)
    for x, y, width, height in boxes:
        across, down = width // 4, height // 4
        rows = slice(max(0, y - down), y + height + down)
        inside[rows, max(0, x - across) : x + width + across] = True
    assert (change[inside] > JPEG_ERROR).mean() > 0.1
    assert (change[~inside] > JPEG_ERROR).mean() < 0.01


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.stem)
def test_nothing_is_found_where_it_was_blurred_or_the_image_fails(file):
    """Pictures full of text and edges, on which the detectors find much that is none."""
    pixels = np.asarray(PIL.Image.open(file).convert("RGB"))
    kinds = ("faces", "plates")
    found = {kind: find_regions(pixels, kind) for kind in kinds}
    assert any(found.values())
    try:
        image, counts = blur_regions(pixels, kinds)
    except ImageError as error:
        assert "one colour" in str(error)
        return
    assert image is not None
    assert all(counts[kind] for kind in kinds if found[kind])
    stored = decode(image.file)
    assert stored.shape == pixels.shape
    assert {kind: find_regions(stored, kind) for kind in kinds} == {"faces": [], "plates": []}
