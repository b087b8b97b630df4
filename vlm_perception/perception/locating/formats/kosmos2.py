# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The patch tokens of Kosmos-2.

Sources: Peng et al., Kosmos-2, 2023, section 2.2 (the bins of a box's upper left and lower right
corner, of 32 x 32); transformers' Kosmos2Processor, which writes and reads them with the code of
github.com/microsoft/unilm (kosmos-2/demo/decode_string.py): a corner is the middle of its bin,
unless the box is one bin wide or high, when it ends with its bins. Its model card asks for a phrase
like `prompt`. A phrase without boxes is followed by nothing (`_insert_patch_index_tokens`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from vlm_perception.perception.locating.formats.box_format import (
    BoxFormat,
    NoBoxesError,
    PictureBox,
    plain,
    scaled,
)

BINS = 32
DELIMITER = "</delimiter_of_multi_objects/>"
_ANSWER = re.compile(r"(?:<phrase>[^<>]*</phrase>)?\s*<object>(.*)</object>")
_PAIR = re.compile(r"\s*<patch_index_(\d{4})>\s*<patch_index_(\d{4})>\s*")


class Kosmos2Tokens(BoxFormat):
    """Two tokens a box."""

    name = "kosmos-2"
    most_tokens = 64

    def prompt(self, phrase: str) -> str:
        """Write the phrase, so that its boxes are what comes next."""
        return f"<grounding><phrase> {plain(phrase)}</phrase>"

    def write(self, boxes: Sequence[PictureBox], phrase: str, size: tuple[int, int]) -> str:
        """Write what follows the phrase; nothing, where there are no boxes."""
        pairs = []
        for box in boxes:
            left, right = _bins(box.left / size[0], box.right / size[0])
            top, bottom = _bins(box.top / size[1], box.bottom / size[1])
            first, last = top * BINS + left, bottom * BINS + right
            pairs.append(f"<patch_index_{first:04d}><patch_index_{last:04d}>")
        return f"<object>{DELIMITER.join(pairs)}</object>" if pairs else ""

    def _boxes(self, text: str, size: tuple[int, int]) -> list[PictureBox]:
        if not text:
            return []
        found = _ANSWER.fullmatch(text)
        pairs = found[1].split(DELIMITER) if found else []
        boxes = []
        for each in pairs or ("",):
            pair = _PAIR.fullmatch(each)
            if pair is None:
                raise NoBoxesError("it is no <object> of pairs of <patch_index> tokens")
            boxes.append(_box(int(pair[1]), int(pair[2]), size))
        return boxes


def _bins(low: float, high: float) -> tuple[int, int]:
    """The bins of two edges, as transformers' `coordinate_to_patch_index` has them."""
    first = min(max(0, math.floor(low * BINS)), BINS - 1)
    return first, min(max(first, math.ceil(high * BINS - 1)), BINS - 1)


def _box(first: int, last: int, size: tuple[int, int]) -> PictureBox:
    """As transformers' `patch_index_to_coordinate`."""
    if max(first, last) >= BINS * BINS:
        raise NoBoxesError(f"there are {BINS * BINS} patch indices, from 0 on")
    (top, left), (bottom, right) = divmod(first, BINS), divmod(last, BINS)
    if right < left or bottom < top:
        raise NoBoxesError("a box has its corners in the wrong order")
    begin, end = (0.0, 1.0) if left == right or top == bottom else (0.5, 0.5)
    corners = (left + begin, top + begin, right + end, bottom + end)
    return scaled(corners, size, (BINS, BINS))
