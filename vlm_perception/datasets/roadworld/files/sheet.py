# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sheet: what the road world looks like, on one page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import look
from vlm_perception.outputs.file import result_file

RENDER_SIZE = (640, 360)
TILE_SIZE = (288, 162)
"""Twenty tiles of this size stay below a megabyte, the sensor's noise included."""
GAP = 4
WHITE = (255, 255, 255)


def write_sheet(
    path: Path, seed: int = 0, columns: int = 4, rows: int = 5, *, appearance: Appearance = PLAIN
) -> Path:
    """Render the scenes from `seed` on, row by row, and write them as one PNG.

    `appearance` is that of streets and cameras.

    Raises:
        OSError: The file cannot be written.
    """
    tiles = [_tile(seed + index, appearance) for index in range(columns * rows)]
    lines = [cv2.hconcat(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    sheet = cv2.vconcat(lines)[:-GAP, :-GAP]
    encoded, file = cv2.imencode(".png", sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not encoded:
        raise OSError(f"cannot write {path}: this OpenCV cannot encode PNG")
    with result_file(path, "roadworld sheet") as part:
        part.write_bytes(file.tobytes())
    return path


def _tile(seed: int, appearance: Appearance) -> NDArray[np.uint8]:
    """One scene in BGR, with white to its right and below it."""
    image = look(sample_scene(seed), RENDER_SIZE, appearance=appearance).image
    small = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR), TILE_SIZE, interpolation=cv2.INTER_AREA
    )
    framed = cv2.copyMakeBorder(small, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=WHITE)
    return np.asarray(framed, np.uint8)
