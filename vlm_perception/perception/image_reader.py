# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The images of one camera, and what is to be said of them once or only of most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.image_conversion import ImageOptions, convert
from vlm_perception.perception.image_errors import DamagedImageError

RECENT = 30
"""So many images tell what most of them are like."""
ENOUGH = 5
"""Fewer tell nothing."""
DEPTHS = (8, 10, 12, 14)
"""Bits of cameras that fill 16 in part."""


class ImageReader:
    """Converts the images of one camera."""

    def __init__(
        self, options: ImageOptions, note: Callable[[str], None] = lambda sentence: None
    ) -> None:
        """Read images so; note is called with what is said once of a camera."""
        self._options = options
        self._note = note
        self._padding_alone: deque[bool] = deque(maxlen=RECENT)
        self._wide = self._highest = 0
        self.padded = 0
        """Images in which bytes that mean nothing were passed over."""

    def read(self, message: Any) -> NDArray[np.uint8]:
        """Convert a sensor_msgs Image or CompressedImage.

        Returns:
            uint8 RGB [height, width, 3].

        Raises:
            ImageError: as `convert` raises it.
        """
        try:
            image = convert(message, self._options)
        except DamagedImageError as error:
            self._padding_alone.append(error.only_padding)
            if error.only_padding and self._most_are_padded():
                raise DamagedImageError(
                    error.kind,
                    f"{error}. Most images of this camera are like that, so that it may be its "
                    "way: if they look right with `jpeg_padding:=accept`, keep that",
                ) from error
            raise
        self._padding_alone.append(False)
        if image.padded:
            self.padded += 1
            if self.padded == 1:
                self._note("it pads its JPEGs with bytes that mean nothing; no pixel is lost")
        if image.highest is not None:
            self._look_at_depth(image.highest)
        return image.pixels

    def _most_are_padded(self) -> bool:
        count = len(self._padding_alone)
        return count >= ENOUGH and 2 * sum(self._padding_alone) > count

    def _look_at_depth(self, highest: int) -> None:
        """Say once that images of 16 bits use fewer, which makes them nearly black."""
        self._wide, self._highest = self._wide + 1, max(self._highest, highest)
        if self._wide != RECENT or self._options.bits != 16:
            return
        bits = next((depth for depth in DEPTHS if self._highest < 2**depth), None)
        if bits is not None:
            self._note(
                f"no value in {RECENT} images of 16 bits exceeds {self._highest}, which is nearly "
                f"black; if the camera uses {bits} bits, set `image_bits:={bits}`"
            )
