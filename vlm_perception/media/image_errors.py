# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Why an image cannot be used."""

from __future__ import annotations

from vlm_perception.common.errors import VlmPerceptionError

MAX_PIXELS = 100_000_000
"""Larger images are refused: a lying header must not exhaust the memory."""


class ImageError(VlmPerceptionError):
    """An image cannot be read; the text says why and what the sender should change."""

    def __init__(self, kind: str, sentence: str) -> None:
        """Keep what is wrong in a word (for counters) and in a sentence."""
        super().__init__(sentence)
        self.kind = kind


class DamagedImageError(ImageError):
    """A part of the image was lost or altered on its way."""

    def __init__(self, kind: str, sentence: str, *, only_padding: bool = False) -> None:
        """Keep what ImageError keeps; only_padding: what looks like damage may be the camera's way.

        Cheap cameras fill their images up with bytes that mean nothing.
        """
        super().__init__(kind, sentence)
        self.only_padding = only_padding


def truncated(size: int) -> DamagedImageError:
    """An image of this many bytes is truncated."""
    return DamagedImageError(
        "truncated",
        f"its data ends in mid-image after {size} bytes; the sender or the network cut it",
    )


def check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse an image without pixels, or with more than `most`.

    Raises:
        ImageError: of the kind bad_size.
    """
    if width < 1 or height < 1:
        raise ImageError(
            "bad_size", f"its size is {width}x{height}; the driver must set width and height"
        )
    if width * height > most:
        raise ImageError(
            "bad_size", f"its size {width}x{height} exceeds {most} pixels; send smaller images"
        )
