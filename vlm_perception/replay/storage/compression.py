# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The compressions that recorders use, for whole files, chunks and single messages."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

from lz4.frame import LZ4FrameDecompressor, LZ4FrameFile
from lz4.frame import decompress as lz4_decompress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".zstd": zstd.open,
    ".zst": zstd.open,
    ".lz4": LZ4FrameFile,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
"""By suffix, what opens a compressed file: recorders use the first three, people all of them."""
READ_BYTES = 1 << 20
ZSTD_MAGIC, LZ4_MAGIC, BZ2_MAGIC = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"BZh"
# lz4 raises RuntimeError, and EOFError where data breaks off; a damaged length asks for any memory.
DAMAGE = (RuntimeError, EOFError, MemoryError, zstd.ZstdError)
FILE_DAMAGE = (*DAMAGE, OSError, lzma.LZMAError, zlib.error)


def unzstd(data: bytes) -> bytes:
    """Unpack zstd.

    Raises:
        one of DAMAGE: the data are damaged.
    """
    return bytes(zstd.decompress(data))


def unlz4(data: bytes) -> bytes:
    """Unpack an lz4 frame.

    Raises:
        one of DAMAGE: the data are damaged.
    """
    return bytes(lz4_decompress(data))


def unpacked(data: bytes) -> bytes:
    """A message as it was before the recorder compressed it, if it did.

    CDR and ROS 1 messages of the types that are read here begin otherwise than compressed data.
    """
    start = data[:4]
    if start == ZSTD_MAGIC:
        return unzstd(data)
    return unlz4(data) if start == LZ4_MAGIC else data


def unpacked_if_whole(data: bytes) -> bytes:
    """A message as before; as it is where its compressed data are damaged."""
    try:
        return unpacked(data)
    except DAMAGE:
        return data


def unpacked_as_far(data: bytes) -> bytes:
    """What can be unpacked of data that break off; empty for an unknown compression."""
    with suppress(*DAMAGE, OSError):
        if data.startswith(ZSTD_MAGIC):
            return bytes(zstd.ZstdDecompressor().decompress(data))
        if data.startswith(LZ4_MAGIC):
            return bytes(LZ4FrameDecompressor().decompress(data))
        if data.startswith(BZ2_MAGIC):
            return bz2.BZ2Decompressor().decompress(data)
    return b""


def unpack_file(path: Path, target: Path) -> bool:
    """Unpack a file as far as it goes; false when it breaks off or is damaged.

    Raises:
        OSError: the target cannot be written.
    """
    with path.open("rb") as packed, target.open("wb") as sink:
        source: BufferedIOBase = OPENERS[path.suffix](packed)
        while True:
            try:
                # Not read(): that would withhold what precedes the damage.
                block = source.read1(READ_BYTES)
            except FILE_DAMAGE:
                return False
            if not block:
                return True
            sink.write(block)
