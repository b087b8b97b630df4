# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The content of an image according to its encoding or compressed format."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_COLOURS = re.compile(r"(8S|(16|32|64)[USF])C\d*")
"""Encodings of OpenCV that hold distances, disparities or labels."""
CODECS = {
    "264": "H.264",
    "265": "H.265",
    "hevc": "H.265",
    "av1": "AV1",
    "vp8": "VP8",
    "vp9": "VP9",
    "theora": "Theora",
    "mpeg4": "MPEG-4",
}
"""By a part of the name that drivers and encoders give them."""
START_CODES = (b"\0\0\1", b"\0\0\0\1")
"""One begins each packet of H.264 or H.265."""


@dataclass(frozen=True)
class Format:
    """The format of a CompressedImage, as image_transport writes it or as a driver puts it."""

    text: str
    encoding: str
    """That of the image before it was compressed; empty if not given."""
    target: str
    """That of the image in the file; empty if not given, or unchanged."""

    @classmethod
    def parse(cls, text: str) -> Format:
        """Read `16UC1; png compressed `, `rgb8; jpeg compressed bgr8`, `jpeg` and the like."""
        encoding, separator, rest = text.partition(";")
        _, _, target = rest.partition("compressed ")
        return cls(text, encoding.strip() if separator else "", target.strip())

    @property
    def shows_depth(self) -> bool:
        """Whether the file holds distances or the like instead of colours."""
        return "compressedDepth" in self.text or bool(NO_COLOURS.fullmatch(self.encoding))


def codec_of(declared: str, data: bytes = b"") -> str:
    """The codec of a video that a format names; of unnamed packets, a guess; empty: an image."""
    named = next((name for part, name in CODECS.items() if part in declared.lower()), "")
    return named or ("H.264 or H.265" if data.startswith(START_CODES) else "")
