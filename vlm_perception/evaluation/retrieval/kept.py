# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings in a file that grows by one after the other: a run that was cut off goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32


class KeptEmbeddings:
    """Unit vectors by what they were made of; a context manager.

    What a killed run has left half-written at the end of the file is cut off, and what is no unit
    vector, as after a power failure, is passed over.
    """

    def __init__(self, file: Path, width: int) -> None:
        """Read what the file holds.

        Args:
            file: made if there is none; no other process writes to it.
            width: of the vectors.

        Raises:
            OSError: it cannot be read or written.
        """
        entry = np.dtype([("key", np.uint8, KEY_BYTES), ("row", np.float32, width)])
        self._stream = file.open("a+b")
        self._stream.truncate(self._stream.tell() // entry.itemsize * entry.itemsize)
        self._stream.seek(0)
        entries = np.frombuffer(self._stream.read(), entry)
        with np.errstate(over="ignore", invalid="ignore"):
            whole = np.abs(np.linalg.norm(entries["row"], axis=1) - 1.0) < 1e-3
        self._rows = {e["key"].tobytes(): np.array(e["row"]) for e in entries[whole]}

    def __enter__(self) -> KeptEmbeddings:
        """Leave the file open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._stream.close()

    def __contains__(self, content: str) -> bool:
        """Whether there is a vector for this content."""
        return _key(content) in self._rows

    def __getitem__(self, content: str) -> NDArray[np.float32]:
        """The vector for this content, [D].

        Raises:
            KeyError: there is none.
        """
        return self._rows[_key(content)]

    def __setitem__(self, content: str, row: NDArray[np.float32]) -> None:
        """Keep a unit vector [D], at once in the file."""
        key = _key(content)
        self._rows[key] = np.array(row, np.float32)
        self._stream.write(key + self._rows[key].tobytes())
        self._stream.flush()


def _key(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()
