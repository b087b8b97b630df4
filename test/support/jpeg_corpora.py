# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""JPEG files as cheap cameras and bad cables make them, built without the code under test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480
INTERVAL = 40
"""Units from one restart marker to the next, in the files that have such markers."""
KINDS = ("plain", "restarts", "progressive", "grey")


@dataclass(frozen=True)
class Altered:
    """A file, what was done to it, and the whole one that it was."""

    kind: str
    whole: bytes
    file: bytes


def street(seed: int) -> np.ndarray:
    """A picture that no code word leaves unused: coarse patches with noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (HEIGHT // 24, WIDTH // 24, 3), dtype=np.uint8)
    smooth = cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(int)
    return (smooth + rng.normal(0, 6, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)


def whole(kind: str, seed: int = 0) -> bytes:
    """A JPEG file of one of KINDS."""
    pixels = street(seed)[..., 0] if kind == "grey" else street(seed)
    options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    if kind == "restarts":
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, INTERVAL]
    if kind == "progressive":
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    return bytes(cv2.imencode(".jpg", pixels, options)[1])


def scan_of(file: bytes) -> tuple[int, int]:
    """Where the first scan's codes begin, and where the file ends."""
    start = file.index(b"\xff\xda")
    return start + 2 + int.from_bytes(file[start + 2 : start + 4], "big"), len(file) - 2


def padded(rng: np.random.Generator) -> Iterator[Altered]:
    """Files whose pixels are whole, with bytes that mean nothing in them."""
    for seed, kind in enumerate(KINDS):
        file = whole(kind, seed)
        first = file.index(b"\xff\xdb")
        for count in (1, 7, 300):
            yield Altered(
                "before the header's parts", file, file[:first] + _fill(rng, count) + file[first:]
            )
        yield Altered("behind the end", file, file + _fill(rng, 1000) + file[:5000])
        if kind != "progressive":
            yield Altered("without Huffman tables", *_without_tables(kind, seed))
    file = whole("restarts")
    for count in (1, 2, 15, 16):
        for share in (1.0, 0.3):
            yield Altered("before restart markers", file, _before_restarts(rng, file, count, share))
    both = _before_restarts(rng, file, 1, 1.0)
    yield Altered("before restart markers and the end", file, both[:-2] + bytes(12) + both[-2:])


def damaged(rng: np.random.Generator, rounds: int) -> Iterator[Altered]:
    """Files that lost a part or had one altered, each kind in each kind of file so many times.

    The last kind of file is that of a cheap camera, which pads before each restart marker.
    """
    for seed in range(rounds):
        files = {kind: (whole(kind, seed), whole(kind, seed + 1)) for kind in KINDS}
        files["cheap"] = tuple(_before_restarts(rng, each, 1, 1.0) for each in files["restarts"])
        for kind, (file, following) in files.items():
            start, end = scan_of(file)
            for name, change in DAMAGES.items():
                yield Altered(f"{name}, {kind}", file, change(rng, file, following, start, end))


def _fill(rng: np.random.Generator, count: int) -> bytes:
    """Bytes of which none begins a marker."""
    return bytes(rng.integers(0, 255, count, dtype=np.uint8))


def _before_restarts(rng: np.random.Generator, file: bytes, count: int, share: float) -> bytes:
    def fill(found: re.Match[bytes]) -> bytes:
        return (_fill(rng, count) if rng.random() < share else b"") + found[0]

    start, _ = scan_of(file)
    return file[:start] + re.sub(rb"\xff[\xd0-\xd7]", fill, file[start:])


def _without_tables(kind: str, seed: int) -> tuple[bytes, bytes]:
    """A file with the tables of the standard, and the same without: as MJPEG cameras send it."""
    file = whole(kind, seed)
    kept, position = file[:2], 2
    while file[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(file[position + 2 : position + 4], "big")
        kept += file[position:end] if file[position + 1] != 0xC4 else b""
        position = end
    return file, kept + file[position:]


def _cut(share: float, rng: np.random.Generator, file: bytes, _: bytes, a: int, b: int) -> bytes:
    gone = round(share * (b - a))
    at = int(rng.integers(a, b - gone))
    return file[:at] + file[at + gone :]


def _lose(count: int, rng: np.random.Generator, file: bytes, _: bytes, a: int, b: int) -> bytes:
    at = int(rng.integers(a, b - count))
    return file[:at] + file[at + count :]


def _overwrite(
    count: int, value: int | None, rng: np.random.Generator, file: bytes, _: bytes, a: int, b: int
) -> bytes:
    at = int(rng.integers(a, b - count))
    new = _fill(rng, count) if value is None else bytes([value]) * count
    return file[:at] + new + file[at + count :]


def _flip(rng: np.random.Generator, file: bytes, _: bytes, a: int, b: int) -> bytes:
    at = int(rng.integers(a, b))
    return file[:at] + bytes([file[at] ^ 1 << int(rng.integers(8))]) + file[at + 1 :]


def _next_frame(rng: np.random.Generator, file: bytes, following: bytes, a: int, b: int) -> bytes:
    at = a + round(float(rng.uniform(0.1, 0.9)) * (b - a))
    return file[:at] + following[at:]


def _truncate(rng: np.random.Generator, file: bytes, _: bytes, a: int, b: int) -> bytes:
    return file[: int(rng.integers(2, b))]


Damage = Callable[[np.random.Generator, bytes, bytes, int, int], bytes]
DAMAGES: dict[str, Damage] = {
    "20 to 80 % cut out": lambda rng, *where: _cut(float(rng.uniform(0.2, 0.8)), rng, *where),
    "512 bytes cut out": partial(_lose, 512),
    "8 bytes cut out": partial(_lose, 8),
    "the next frame's bytes behind a place": _next_frame,
    "512 bytes zeroed": partial(_overwrite, 512, 0),
    "512 bytes of noise": partial(_overwrite, 512, None),
    "a bit flipped": _flip,
    "end cut off": _truncate,
}


def bomb(width: int, height: int, scans: int) -> bytes:
    """A small progressive file of one grey level, valid to the last byte: to decode it takes long.

    The first scan holds the levels, each other one nothing but an end-of-band run over all blocks.
    """

    def part(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    def packed(codes: list[str]) -> bytes:
        bits = "".join(codes)
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")

    blocks = -(-width // 8) * -(-height // 8)
    runs, rest = divmod(blocks, 32767)
    levels = packed(["0"] * blocks)
    ends = packed(["0" + "1" * 14] * runs + ["10"] * rest)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    file = b"\xff\xd8" + part(0xDB, b"\x00" + b"\x01" * 64)
    file += part(0xC2, b"\x08" + size + b"\x01\x01\x11\x00")
    file += part(0xC4, b"\x00" + bytes([1, *[0] * 15]) + b"\x00")
    file += part(0xC4, b"\x10" + bytes([1, 1, *[0] * 14]) + b"\xe0\x00")
    file += part(0xDA, b"\x01\x01\x00\x00\x00\x00") + levels
    for coefficient in range(1, scans):
        file += part(0xDA, bytes([1, 1, 0, coefficient, coefficient, 0])) + ends
    return file + b"\xff\xd9"
