# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a bundle: whole, unaltered, and all that its graphs read."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import FileEntry
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.engines.external_data import GraphError, external_files

MOST_STORED = 1 << 32
"""Bytes of an archive's arrays; packed ones may be a thousand times as large as their file."""

FileState = tuple[int, int, int, int]
"""Which file it is, and whether it was written to: device, inode, size, time of the last change."""


class BundleError(VlmPerceptionError):
    """A bundle cannot be used; the message says why and what to do."""


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as stream:
        return _sha256(stream)


def check_files(bundle: Path, files: Mapping[str, FileEntry]) -> dict[str, FileState]:
    """Check a bundle's files against its manifest.

    A file may be a link to one elsewhere: what counts is what it holds, which has a hash here.

    Returns:
        The state in which each file was found.

    Raises:
        BundleError: one is missing, altered or no file, or a graph reads one that is not listed.
    """
    states: dict[str, FileState] = {}
    for name, entry in files.items():
        path = bundle / name
        try:
            with open_ordinary(path) as stream:
                state = _state(os.fstat(stream.fileno()))
                if state[2] != entry.bytes:
                    raise BundleError(
                        f"bundle {bundle}: {name} has {state[2]} bytes instead of {entry.bytes}; "
                        "it is truncated or altered (or a Git LFS pointer). Copy or export it again"
                    )
                found = _sha256(stream)
            if found != entry.sha256:
                raise BundleError(
                    f"bundle {bundle}: {name} was altered, its hash differs from the manifest's. "
                    "Copy or export it again"
                )
            if name.endswith(".onnx"):
                _check_graph(bundle, name, files)
        except FileNotFoundError as error:
            raise BundleError(
                f"bundle {bundle}: {name} is missing. Copy or export it again"
            ) from error
        except OSError as error:
            remedy = "Give it the right owner and mode, or copy or export it again"
            if error.errno == errno.ENOMEM:
                remedy = "Stop other programs, or use a smaller bundle"
            raise BundleError(
                f"bundle {bundle}: {name} cannot be read ({error.strerror or error}). {remedy}"
            ) from error
        states[name] = state
    return states


def check_unchanged(bundle: Path, name: str, state: FileState) -> None:
    """Refuse a file that is not in the state in which it was checked.

    Raises:
        BundleError: it was replaced or written to.
    """
    try:
        same = _state((bundle / name).stat()) == state
    except OSError:
        same = False
    if not same:
        raise BundleError(
            f"bundle {bundle}: {name} was changed after it was checked. Load the bundle again"
        )


def read_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read a file that holds one array.

    Args:
        path: the file.
        mapped: leave the array on the disk; what is looked at is read.

    Raises:
        BundleError: it holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        reason: object = "an archive of several arrays"
    # numpy and zipfile raise many kinds for damaged files.
    except Exception as error:
        reason = error
    raise BundleError(
        f"{path} does not contain an array ({reason}). Copy or export the bundle again"
    )


def read_arrays(path: Path, prefix: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of an archive whose names begin with a prefix, by the rest of their names.

    Raises:
        BundleError: it is no archive of arrays, or too large.
    """
    try:
        with ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > MOST_STORED:
            raise BundleError(f"it would unpack to {size} bytes")
        with np.load(path, allow_pickle=False) as stored:
            names = [name for name in stored.files if name.startswith(prefix)]
            if not names:
                raise BundleError(f"it contains no {prefix}...")
            return {name.removeprefix(prefix): stored[name] for name in names}
    # numpy and zipfile raise many kinds for damaged files.
    except Exception as error:
        raise BundleError(
            f"{path} cannot be read as an archive of arrays ({error}). Copy or export the bundle "
            "again"
        ) from error


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _state(found: os.stat_result) -> FileState:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_graph(bundle: Path, name: str, files: Mapping[str, FileEntry]) -> None:
    try:
        read = external_files(bundle / name)
    except GraphError as error:
        raise BundleError(
            f"bundle {bundle}: {name} is not an ONNX model ({error}). Export the bundle again"
        ) from error
    # Such a file is next to its graph, under a name that the manifest has checked.
    folder = Path(name).parent
    for other in sorted(read):
        if str(folder / other) not in files:
            raise BundleError(
                f"bundle {bundle}: {name} reads {other!r}, which the manifest does not list, so "
                "its content is not verified. Export the bundle again"
            )
