# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The box tokens of Qwen2-VL.

Source: Wang et al., Qwen2-VL, 2024, section 2.2.1 (format of data, visual grounding): corners in
thousandths of the picture between <|box_start|> and <|box_end|>, behind what is in the box between
<|object_ref_start|> and <|object_ref_end|>. These are control tokens, which servers and this
package leave out of a text, so that they may be missing. The prompt is that of Qwen-VL's demo
(github.com/QwenLM/Qwen-VL/issues/233); Qwen2-VL has published none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import (
    BoxFormat,
    NoBoxesError,
    PictureBox,
    plain,
    scaled,
    stepped,
)

THOUSANDTHS = 1000
_NUMBER = r"\s*(\d{1,4})\s*"
_CORNER = rf"\({_NUMBER},{_NUMBER}\)"
_BOX = rf"{_CORNER}\s*,\s*{_CORNER}"
_ENTRY = re.compile(
    r"\s*(?:<\|object_ref_start\|>[^<>]*<\|object_ref_end\|>|[^<>()]*)\s*"
    rf"(?:<\|box_start\|>\s*{_BOX}\s*<\|box_end\|>|{_BOX})\s*"
)


class Qwen2Tokens(BoxFormat):
    """Corners in brackets, between tokens of their own."""

    name = "qwen2-vl"
    most_tokens = 512

    def prompt(self, phrase: str) -> str:
        """Ask as the demo of the family does."""
        return f"Generate the bounding box of {plain(phrase)}"

    def write(self, boxes: Sequence[PictureBox], phrase: str, size: tuple[int, int]) -> str:
        """Write the phrase before each box.

        Raises:
            LocateError: there are no boxes, and the family has no answer for that.
        """
        if not boxes:
            raise LocateError("Qwen2-VL has no answer that says that there is no such thing")
        units, last = (THOUSANDTHS, THOUSANDTHS), (THOUSANDTHS - 1, THOUSANDTHS - 1)
        return "".join(
            f"<|object_ref_start|>{plain(phrase)}<|object_ref_end|>"
            f"<|box_start|>({left},{top}),({right},{bottom})<|box_end|>"
            for left, top, right, bottom in (stepped(box, size, units, last) for box in boxes)
        )

    def _boxes(self, text: str, size: tuple[int, int]) -> list[PictureBox]:
        boxes: list[PictureBox] = []
        at = 0
        while at < len(text) or not boxes:
            found = _ENTRY.match(text, at)
            if found is None:
                raise NoBoxesError("it is no row of boxes")
            corners = [int(each) for each in found.groups() if each is not None]
            boxes.append(scaled(corners, size, (THOUSANDTHS, THOUSANDTHS)))
            at = found.end()
        return boxes
