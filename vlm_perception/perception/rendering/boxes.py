# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Draw boxes with their names into an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vlm_perception.perception.rendering.overlay import DARK, LABEL_COLOURS
from vlm_perception.types import LocatedBox


def draw_boxes(
    image: NDArray[np.uint8], boxes: Mapping[str, Sequence[LocatedBox]]
) -> NDArray[np.uint8]:
    """Draw boxes, those of each name in a colour of its own.

    Args:
        image: uint8 RGB [height, width, 3], of any size; it stays as it is.
        boxes: by their name.
    """
    canvas = Image.fromarray(image)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    line = max(1, round(max(image.shape[:2]) / 400))
    for number, (name, found) in enumerate(boxes.items()):
        colour = LABEL_COLOURS[number % len(LABEL_COLOURS)]
        for box in found:
            right, bottom = max(box.x, box.x + box.width - 1), max(box.y, box.y + box.height - 1)
            draw.rectangle((box.x, box.y, right, bottom), outline=colour, width=line)
            text = name if np.isnan(box.score) else f"{name} {box.score:.2f}"
            _, _, across, down = font.getbbox(text)
            top = max(0.0, box.y - down - 2)
            draw.rectangle((box.x, top, box.x + across + 2, top + down + 2), fill=colour)
            draw.text((box.x + 1, top + 1), text, fill=DARK, font=font)
    return np.asarray(canvas, np.uint8)
