# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON of Qwen2.5-VL and Qwen3-VL.

Sources: Bai et al., Qwen2.5-VL Technical Report, 2025, section 2.1.1 (coordinates are pixels of the
picture that the model gets), and its cookbook spatial_understanding.ipynb; Qwen3-VL's cookbook
2d_grounding.ipynb (coordinates are thousandths of the picture); github.com/QwenLM/Qwen3-VL.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from vlm_perception.perception.locating.formats.box_format import (
    BoxFormat,
    NoBoxesError,
    PictureBox,
    scaled,
    stepped,
)

_FENCED = re.compile(r"```(?:json)?(.*)```")
SQUARE = 28
"""Pixels that sides of Qwen2.5-VL's pictures are multiples of."""
LEAST_PIXELS, MOST_PIXELS = 3136, 12845056
"""Of a picture, as Qwen2.5-VL's published preprocessor_config.json has them."""
THOUSANDTHS = 1000


class QwenJson(BoxFormat):
    """A list of objects, each with a box and a label."""

    most_tokens = 1024

    def write(self, boxes: Sequence[PictureBox], phrase: str, size: tuple[int, int]) -> str:
        """Write a list, a box a line, in a fence of Markdown."""
        units = self._units(size)
        entries = [
            {"bbox_2d": list(stepped(box, size, units, units)), "label": phrase} for box in boxes
        ]
        lines = ",\n".join(f"\t{json.dumps(entry, ensure_ascii=False)}" for entry in entries)
        content = f"[\n{lines}\n]" if lines else "[]"
        return f"```json\n{content}\n```"

    @abstractmethod
    def _units(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of a picture in the units of coordinates."""

    def _boxes(self, text: str, size: tuple[int, int]) -> list[PictureBox]:
        fenced = _FENCED.fullmatch(text)
        try:
            # Python's constants NaN and Infinity are no JSON.
            content = json.loads(fenced[1] if fenced else text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise NoBoxesError("it is no JSON") from error
        # Qwen's examples hold a single box without a list.
        entries = [content] if isinstance(content, dict) else content
        if not isinstance(entries, list):
            raise NoBoxesError("it is no list of boxes")
        units = self._units(size)
        return [scaled(_corners(entry), size, units) for entry in entries]


class Qwen25Json(QwenJson):
    """Qwen2.5-VL: pixels of the resized image."""

    name = "qwen2.5-vl"

    def prompt(self, phrase: str) -> str:
        """Ask as the cookbook does for all things of a kind."""
        return (
            f"Outline the position of each {phrase} and output all the coordinates in JSON format."
        )

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """As `smart_resize` of the family's processor, with its published limits."""
        width, height = (round(side / SQUARE) * SQUARE for side in size)
        if width * height > MOST_PIXELS:
            shrink = math.sqrt(size[0] * size[1] / MOST_PIXELS)
            width, height = (
                max(SQUARE, math.floor(side / shrink / SQUARE) * SQUARE) for side in size
            )
        elif width * height < LEAST_PIXELS:
            grow = math.sqrt(LEAST_PIXELS / (size[0] * size[1]))
            width, height = (math.ceil(side * grow / SQUARE) * SQUARE for side in size)
        return width, height

    def _units(self, size: tuple[int, int]) -> tuple[int, int]:
        return size


class Qwen3Json(QwenJson):
    """Qwen3-VL: thousandths of the picture's sides."""

    name = "qwen3-vl"

    def prompt(self, phrase: str) -> str:
        """Ask as the cookbook does for the things of a category."""
        return (
            f'locate every instance that belongs to the following categories: "{phrase}". Report '
            "bbox coordinates in JSON format."
        )

    def _units(self, size: tuple[int, int]) -> tuple[int, int]:
        return THOUSANDTHS, THOUSANDTHS


def _corners(entry: Any) -> list[float]:
    """The four numbers of an entry of the list."""
    box = entry.get("bbox_2d") if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        raise NoBoxesError("an entry has no bbox_2d of four numbers")
    if not all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in box):
        raise NoBoxesError("a bbox_2d holds something that is no number")
    return box


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
