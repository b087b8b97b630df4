# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The location tokens of PaliGemma.

Sources: Beyer et al., PaliGemma, 2024, section 3.2 (top, left, bottom and right as one of 1024
tokens each, the label behind them, `;` between boxes); big_vision (github.com/google-research/
big_vision): pp/proj/paligemma/segmentation.py writes round(1023 * coordinate) and the evaluator of
the same name divides by 1023; the prompt is that of its configs/proj/paligemma/README.md. A model
that finds nothing ends its answer before it has begun: a list of no boxes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_perception.perception.locating.formats.box_format import (
    BoxFormat,
    NoBoxesError,
    PictureBox,
    plain,
    scaled,
    stepped,
)

LAST = 1023
_ENTRY = re.compile(r"\s*" + r"<loc(\d{4})>" * 4 + r"[^<>;]*")


class PaliGemmaTokens(BoxFormat):
    """Four tokens a box."""

    name = "paligemma"
    most_tokens = 128

    def prompt(self, phrase: str) -> str:
        """Ask for all things of a kind."""
        return f"detect {plain(phrase)}"

    def write(self, boxes: Sequence[PictureBox], phrase: str, size: tuple[int, int]) -> str:
        """Write the boxes one after the other; nothing, where there are none."""
        entries = []
        for box in boxes:
            left, top, right, bottom = stepped(box, size, (LAST, LAST), (LAST, LAST))
            corners = "".join(f"<loc{each:04d}>" for each in (top, left, bottom, right))
            entries.append(f"{corners} {plain(phrase)}")
        return " ; ".join(entries)

    def _boxes(self, text: str, size: tuple[int, int]) -> list[PictureBox]:
        boxes = []
        for entry in text.split(";") if text else ():
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise NoBoxesError("it is no row of four <loc> tokens and a label each")
            top, left, bottom, right = map(int, found.groups())
            boxes.append(scaled((left, top, right, bottom), size, (LAST, LAST)))
        return boxes
