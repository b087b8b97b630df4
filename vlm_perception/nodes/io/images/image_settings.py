# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the nodes that read camera images."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.media.image_message import LEAST_BITS, PADDING, ImageOptions
from vlm_perception.nodes.base.parameters import setting


@dataclass(frozen=True)
class ImageSettings:
    """How to read images that do not describe themselves completely."""

    jpeg_padding: str = setting(
        ImageOptions.jpeg_padding,
        "JPEGs with padding bytes before their end: `refuse` them, because missing data looks the "
        "same, or `accept` them, for a camera that always sends such padding.",
        choices=PADDING,
    )
    image_bits: int = setting(
        ImageOptions.image_bits,
        "Number of low-order bits that the camera uses in 16-bit images: 12 for most mono12 or "
        "bayer12 cameras, 14 for many thermal ones.",
        minimum=LEAST_BITS,
        maximum=16,
    )

    @property
    def image_options(self) -> ImageOptions:
        """The same, as the conversion takes it."""
        return ImageOptions(self.jpeg_padding, self.image_bits)
