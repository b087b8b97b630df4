# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Opens files that others name: only such as end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from vlm_perception.common.errors import VlmPerceptionError


class NoFileError(VlmPerceptionError, OSError):
    """A path names a folder, a pipe or a device."""


def open_ordinary(path: Path) -> BinaryIO:
    """Open an ordinary file, or a link to one, to read its bytes.

    Raises:
        NoFileError: it is something else.
        OSError: it cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    # It holds a NUL, or characters that the file system has no bytes for.
    except ValueError as error:
        raise NoFileError(f"a file cannot have this name ({error}); choose another") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoFileError("it is a folder, a pipe or a device; give a regular file")
    return os.fdopen(descriptor, "rb")
