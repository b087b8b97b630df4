# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, whatever ends the program or the machine."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vlm_perception.common.disk_space import check_room

PART_SUFFIX = ".part"
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
"""What file systems without hard links say; there the last of several writers counts."""


@contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """A file to write to; it takes its place when the context ends without an error.

    Raises:
        DiskFullError: little room is left.
        OSError: it cannot be written.
    """
    with _beside(file) as part:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A name to write a file under."""
    check_room(file)
    # Two workers may write the same image, on two machines, too.
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as a whole; see `whole_file`."""
    with whole_file(file) as stream:
        stream.write(content)


def keep_first(file: Path, content: bytes) -> None:
    """Write a file as a whole, unless it is there; of several writers the first one counts.

    Raises:
        DiskFullError: little room is left.
        OSError: it cannot be written.
    """
    with _beside(file) as aside:
        write_bytes(aside, content)
        try:
            os.link(aside, file)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            aside.replace(file)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
