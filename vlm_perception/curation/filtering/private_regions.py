# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faces and number plates, found by the cascades that OpenCV 4 ships.

P. Viola, M. Jones, Rapid Object Detection using a Boosted Cascade of Simple Features, CVPR 2001.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.recipe import CurationError

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels."""

# A cascade of profiles knows one side only: the mirrored image shows it the other.
_CASCADES = {
    "faces": (
        ("haarcascade_frontalface_default.xml", False),
        ("haarcascade_profileface.xml", False),
        ("haarcascade_profileface.xml", True),
    ),
    "plates": (("haarcascade_russian_plate_number.xml", False),),
}
_FOLDERS = ("/usr/share/opencv4/haarcascades", "/usr/share/opencv/haarcascades")
"""Where Debian's package opencv-data has them."""
_SCALE_STEP, _NEIGHBOURS = 1.1, 4


def require_detectors(kinds: Iterable[str]) -> None:
    """Refuse to look for what the installed OpenCV has no detector of.

    Raises:
        CurationError: it has none.
    """
    for kind in kinds:
        for name, _ in _CASCADES[kind]:
            _cascade(name)


def find_regions(pixels: NDArray[np.uint8], kind: str) -> list[Box]:
    """The regions of an image that show something, in the order of their places.

    Args:
        pixels: uint8 RGB [height, width, 3].
        kind: `faces` or `plates`.

    Raises:
        CurationError: the installed OpenCV has no detector.
    """
    grey = cv2.equalizeHist(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    found: set[Box] = set()
    for name, mirrored in _CASCADES[kind]:
        seen = cv2.flip(grey, 1) if mirrored else grey
        for box in _cascade(name).detectMultiScale(seen, _SCALE_STEP, _NEIGHBOURS):
            left, top, width, height = map(int, box)
            if mirrored:
                left = grey.shape[1] - left - width
            found.add((left, top, width, height))
    return sorted(found)


@cache
def _cascade(name: str) -> Any:
    known: Any = cv2
    data = getattr(known, "data", None)
    folders = [getattr(data, "haarcascades", ""), *_FOLDERS]
    file = next((each for folder in folders if (each := Path(folder, name)).is_file()), None)
    if file is None or not hasattr(known, "CascadeClassifier"):
        raise CurationError(
            f"filter.blur needs {name} and its detector, which OpenCV {cv2.__version__} lacks: "
            "`pip install 'opencv-python<5'` has both, and so have python3-opencv and opencv-data "
            "of Debian and Ubuntu; or leave filter.blur out"
        )
    return known.CascadeClassifier(str(file))
