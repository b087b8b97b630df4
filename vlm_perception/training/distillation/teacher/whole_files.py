# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, whenever a pass is killed."""

from __future__ import annotations

import os
from pathlib import Path


def aside_of(target: Path) -> Path:
    """Where a file is written before it is whole."""
    return target.with_name(f".{target.name}")


def write(target: Path, content: bytes) -> None:
    """Write a file and put it into place."""
    aside = aside_of(target)
    aside.write_bytes(content)
    flush(aside)
    aside.rename(target)


def flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
