# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a long evaluation has finished, kept on disk: a run that was cut off goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vlm_perception
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import LONGEST_LINE, JsonLines
from vlm_perception.evaluation.code_digest import code_digest

PROGRAM = "program"
"""Key of the digest of this program's code in an identity."""
_SHOWN = 20
"""Characters of a value that a sentence shows."""


class JournalError(VlmPerceptionError):
    """What an interrupted run has left cannot be continued; the text says why and what to do."""


class Journal:
    """Finished items, each on disk as soon as it is added; a context manager.

    A file of JSON lines to which lines are only ever added: the first tells what the items depend
    on, this program's own code included, each other holds one item. A line that was cut off by a
    kill is dropped when the file is opened again. Two runs must not open one file at a time; a
    folder for results sees to that.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]) -> None:
        """Begin a file, or read what an interrupted run has left in it.

        Args:
            file: where the items are kept; its folder exists.
            identity: all that items depend on, as JSON has it: digests of bundle and data, options
                that change answers.

        Raises:
            JournalError: the file is damaged, or was begun with another identity.
            OSError: it cannot be read or written.
        """
        self.file = file
        self.items: dict[str, Any] = {}
        """What was finished, by key, in the order in which it was."""
        wanted = _whole(identity)
        if file.exists():
            _drop_cut_line(file)
            self._read(wanted)
        # Without a buffer: what was added is with the system before the next item begins.
        self._stream = file.open("ab" if self.items else "wb", buffering=0)
        if not self.items:
            self._write({"identity": wanted})

    @classmethod
    def named(cls, folder: Path, what: str, identity: Mapping[str, Any]) -> Journal:
        """A journal with a file of its own for all that items depend on.

        Args:
            folder: for the file; it exists.
            what: what the items are, for its name.
            identity: as above.

        Raises:
            JournalError: the file is damaged.
            OSError: it cannot be read or written.
        """
        digest = hashlib.sha256(json.dumps(_whole(identity), sort_keys=True).encode()).hexdigest()
        return cls(folder / f"{what}-{digest[:16]}.jsonl", identity)

    def __enter__(self) -> Journal:
        """Nothing is left to be done."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._stream.close()

    def add(self, key: str, item: Any) -> None:
        """Keep a finished item.

        Args:
            key: its name; an item of the same name is replaced.
            item: as JSON has it, not longer than a megabyte.

        Raises:
            JournalError: it is longer.
            OSError: it cannot be written; the file is as it was.
        """
        self._write({"key": key, "item": item})
        self.items[key] = item

    def _read(self, wanted: Mapping[str, Any]) -> None:
        example = '{"key": "", "item": {}}'
        lines = JsonLines(self.file, "a finished item", example, JournalError, ours=True)
        found = iter(lines)
        try:
            first = next(found, None)
            for where, content in found:
                if not isinstance(content.get("key"), str) or "item" not in content:
                    raise lines.bad(where, "it has no key or no item")
                self.items[content["key"]] = content["item"]
            if self.items and first is not None:
                self._require_same(first[1].get("identity"), wanted)
        except JournalError as error:
            raise JournalError(f"{error}; or remove {self.file} to start over") from error

    def _require_same(self, found: object, wanted: Mapping[str, Any]) -> None:
        if not isinstance(found, dict):
            raise JournalError(f"{self.file} does not say what run it is of")
        different = [
            f"{name} was {_short(found.get(name))} and is {_short(wanted.get(name))} now"
            for name in dict.fromkeys((*found, *wanted))
            if found.get(name) != wanted.get(name)
        ]
        if different:
            raise JournalError(
                f"{self.file} was left by an interrupted run of another kind "
                f"({'; '.join(different)}): finish that run, or choose another folder"
            )

    def _write(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content).encode() + b"\n"
        if len(line) > LONGEST_LINE:
            raise JournalError(
                f"an item of {len(line)} bytes is too long for {self.file}, whose lines have at "
                f"most {LONGEST_LINE}"
            )
        end = self._stream.seek(0, os.SEEK_END)
        rest = memoryview(line)
        try:
            # On a full disk a write is short before one fails.
            while rest:
                rest = rest[self._stream.write(rest) :]
        except BaseException:
            self._stream.truncate(end)
            raise


def image_key(image: NDArray[np.uint8], about: str = "") -> str:
    """The key of an item that follows from an image, whatever its name and the set that it is in.

    Args:
        image: its pixels, [height, width, channels].
        about: what else the item follows from.
    """
    return hashlib.sha256(f"{image.shape} {about} ".encode() + image.tobytes()).hexdigest()


def _whole(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as the file has it: another version of this program may find other items."""
    whole: dict[str, Any] = json.loads(
        json.dumps({**identity, PROGRAM: code_digest(vlm_perception)})
    )
    return whole


def _drop_cut_line(file: Path) -> None:
    """Cut off what follows the last line's end; without any, all of it."""
    with file.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - LONGEST_LINE))
        end = stream.read().rfind(b"\n")
        if end >= 0 or start == 0:
            stream.truncate(start + end + 1)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
