# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The images of one camera, with notes that apply once or to most of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.media.image_errors import DamagedImageError, ImageError
from vlm_perception.media.image_message import ImageOptions, convert

RECENT = 30
"""Number of images that show what most of them are like."""
ENOUGH = 5
"""Fewer are not conclusive."""
ADVICE = (
    "most images of this camera are refused for meaningless bytes before their end, so the camera "
    "may always send them: set jpeg_padding:=accept, and keep it if the images are intact"
)
DEPTHS = (8, 10, 12, 14)
"""Bits of cameras that fill 16 in part."""


class ImageReader:
    """Converts the images of one camera."""

    def __init__(self, note: Callable[[str], None] = lambda sentence: None) -> None:
        """Begin; note is called with what is reported once for a camera."""
        self._note = note
        self._padding_alone: deque[bool] = deque(maxlen=RECENT)
        self._advised = False
        self._wide = self._highest = 0
        self.padded = 0
        """Images in which bytes that mean nothing were passed over."""

    def read(self, message: Any, options: ImageOptions, *, view: bool = False) -> NDArray[np.uint8]:
        """Convert a sensor_msgs Image or CompressedImage; the arguments are those of `convert`.

        Returns:
            uint8 RGB [height, width, 3].

        Raises:
            ImageError: as `convert` raises it.
        """
        try:
            image = convert(message, options, view=view)
        except DamagedImageError as error:
            self._padding_alone.append(error.only_padding)
            if not self._advised and self._is_habit(error):
                self._advised = True
                self._note(ADVICE)
            raise
        self._padding_alone.append(False)
        if image.padded:
            self.padded += 1
            if self.padded == 1:
                self._note("the camera pads its JPEGs with meaningless bytes; no pixel is missing")
        if image.highest is not None:
            self._look_at_depth(image.highest, options.image_bits)
        return image.pixels

    def explain(self, error: ImageError) -> str:
        """Why an image was skipped, with a parameter's name where most are for the same reason."""
        return f"{error}; {ADVICE}" if self._is_habit(error) else str(error)

    def _is_habit(self, error: ImageError) -> bool:
        """Whether most images are refused for nothing but what may be their camera's way."""
        count = len(self._padding_alone)
        alone = isinstance(error, DamagedImageError) and error.only_padding
        return alone and count >= ENOUGH and 2 * sum(self._padding_alone) > count

    def _look_at_depth(self, highest: int, used: int) -> None:
        """Say once that images of 16 bits use fewer, which makes them nearly black."""
        self._wide, self._highest = self._wide + 1, max(self._highest, highest)
        if self._wide != RECENT or used != 16:
            return
        bits = next((depth for depth in DEPTHS if self._highest < 2**depth), None)
        if bits is not None:
            self._note(
                f"no value in {RECENT} images of 16 bits exceeds {self._highest}, which is nearly "
                f"black; if the camera uses {bits} bits, set image_bits:={bits}"
            )
