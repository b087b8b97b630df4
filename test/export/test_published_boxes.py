# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Formats of boxes agree with the processors of the families in transformers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.kosmos2.processing_kosmos2 import (
    clean_text_and_extract_entities_with_bboxes,
    coordinate_to_patch_index,
)
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vlm_perception.perception.locating.formats.box_format import PictureBox
from vlm_perception.perception.locating.formats.known import FORMATS
from vlm_perception.perception.locating.formats.kosmos2 import BINS
from vlm_perception.perception.locating.formats.qwen_json import (
    LEAST_PIXELS,
    MOST_PIXELS,
    SQUARE,
)

UNIT = (1, 1)


@st.composite
def unit_boxes(draw: st.DrawFn) -> PictureBox:
    """A box in a picture of a pixel, at least a hundredth wide and high."""
    edges = []
    for _ in range(2):
        low = draw(st.floats(0, 0.99))
        edges += [low, draw(st.floats(low + 0.01, 1))]
    return PictureBox(edges[0], edges[2], edges[1], edges[3])


@given(boxes=st.lists(unit_boxes(), min_size=1, max_size=3))
def test_kosmos_bins_are_those_of_its_processor(boxes: list[PictureBox]) -> None:
    made = FORMATS["kosmos-2"]
    text = made.write(boxes, "a cone", UNIT)
    for box in boxes:
        first, last = coordinate_to_patch_index(tuple(box), BINS)
        assert f"<patch_index_{first:04d}><patch_index_{last:04d}>" in text
    _, entities = clean_text_and_extract_entities_with_bboxes(f"<phrase> a cone</phrase>{text}")
    assert entities[0][0] == "a cone"
    for ours, theirs in zip(made.parse(text, UNIT, truncated=False), entities[0][2], strict=True):
        assert ours == pytest.approx(theirs)


@given(box=unit_boxes())
def test_paligemma_writes_tokens_of_its_processor(box: PictureBox) -> None:
    text = FORMATS["paligemma"].write([box], "cone", UNIT)
    corners = text.removesuffix(" cone").replace("><", ">,<").split(",")
    assert len(corners) == 4 and set(corners) <= set(EXTRA_TOKENS)


@given(width=st.integers(1, 6000), height=st.integers(1, 6000))
def test_qwens_picture_is_that_of_its_processor(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    theirs = smart_resize(
        height, width, factor=SQUARE, min_pixels=LEAST_PIXELS, max_pixels=MOST_PIXELS
    )
    assert FORMATS["qwen2.5-vl"].resized((width, height)) == theirs[::-1]
