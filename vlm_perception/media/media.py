# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What files, folders and cameras deliver: images in order, with their times and faults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.media.image_message import to_rgb


class MediaError(VlmPerceptionError):
    """There is nothing to play; the text says why and what to give instead."""


@dataclass(frozen=True)
class ImageFile:
    """The bytes of an image file, with the fields of a CompressedImage message."""

    data: bytes
    format: str = ""


@dataclass(frozen=True)
class Picture:
    """One image, decoded (BGR [height, width, 3]) or as a JPEG file; neither: with a fault."""

    pixels: NDArray[np.uint8] | None = None
    jpeg: bytes | None = None
    time_s: float | None = None
    """Seconds from the first image, where the source gives them; ascending."""
    fault: str = ""
    """Why there is no image, in a word."""
    fault_text: str = ""
    """The same in a sentence that names the file."""

    def decoded(self) -> NDArray[np.uint8]:
        """Return the pixels.

        Raises:
            ImageError: the JPEG file is damaged.
        """
        if self.pixels is not None:
            return self.pixels
        rgb = to_rgb(ImageFile(self.jpeg or b""))
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), dtype=np.uint8)

    def encoded(self, quality: int) -> bytes:
        """Return a JPEG file; one that came as such may be damaged."""
        if self.jpeg is not None:
            return self.jpeg
        _, file = cv2.imencode(".jpg", self.decoded(), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return bytes(file)


class Media(ABC):
    """Images in order; live ones have no end."""

    live = False
    name = ""
    """The source's name for people: without the password of an address."""

    @property
    def rate_hz(self) -> float | None:
        """Images per second, where the source itself gives them."""
        return None

    @property
    def count(self) -> int | None:
        """How many images there should be, where that is known."""
        return None

    @property
    def timed(self) -> bool:
        """Whether each image has a time of its own."""
        return False

    @property
    def notes(self) -> list[str]:
        """What is worth knowing of the times of the images."""
        return []

    @property
    def losses(self) -> list[str]:
        """What is missing, a sentence each; known when the images have been played to the end."""
        return []

    def close(self) -> None:  # noqa: B027 - only cameras have something to close
        """Let others have the camera, where it is one."""

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on; those that cannot be used have a fault.

        Raises:
            MediaError: A live source was lost and does not come back.
        """
