# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Files of one JSON object a line: reads what anybody may have written, in bounded memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

LONGEST_LINE = 1 << 20
"""Bytes."""
MOST_BYTES = 1 << 28
LONGEST_ARRAY = 1 << 25
"""Bytes; an array is held in memory as a whole."""


@dataclass(frozen=True)
class JsonLines:
    """A file of JSON objects, and the words in which its faults are told."""

    file: Path
    what: str
    """What a line is, `an answered image`."""
    example: str
    """A line as it should be."""
    error: type[VlmPerceptionError]
    """What is raised."""
    arrays: bool = False
    """Whether the file may be one JSON array of the objects, too."""
    ours: bool = False
    """Whether this program alone writes it: then it may have any size, and hold any text."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each object after the words that say where it is; empty lines are passed over.

        Raises:
            VlmPerceptionError: of the kind `error`: the file cannot be read or is too large, or a
                line is no JSON object, or holds a text that is none: half a character.
        """
        try:
            with open_ordinary(self.file) as stream:
                if self.arrays and _is_array(stream):
                    yield from self._items(stream.read(LONGEST_ARRAY + 1))
                    return
                for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b"")):
                    where = f"{self.file}, line {number + 1}"
                    if stream.tell() > MOST_BYTES and not self.ours:
                        raise self.error(f"{self.file} is larger than {MOST_BYTES} bytes; split it")
                    text = line if number else line.removeprefix(codecs.BOM_UTF8)
                    if text.strip():
                        yield where, self._object(where, self._parse(where, text, LONGEST_LINE))
        except OSError as error:
            raise self.error(
                f"{self.file} cannot be read ({error.strerror or error}); create it with lines "
                f"such as {self.example}"
            ) from error

    def bad(self, where: str, why: object) -> VlmPerceptionError:
        """What to raise for a line.

        Args:
            where: the words before its object.
            why: what is wrong with it.
        """
        return self.error(f"{where} is not {self.what} ({why}); write it as {self.example}")

    def _items(self, text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        parsed = self._parse(str(self.file), text.removeprefix(codecs.BOM_UTF8), LONGEST_ARRAY)
        for number, content in enumerate(parsed):
            where = f"{self.file}, item {number + 1}"
            yield where, self._object(where, content)

    def _parse(self, where: str, text: bytes, most: int) -> Any:
        if len(text) > most:
            raise self.bad(where, f"it has more than {most} bytes")
        try:
            content = json.loads(text.decode("utf-8"))
            # Bytes cannot hold half a character, but an escape sequence can.
            if not self.ours and b"\\ud" in text.lower():
                json.dumps(content, ensure_ascii=False).encode("utf-8")
        # The first includes what decoding and encoding raise; the other one is of lists within
        # lists within lists.
        except (ValueError, RecursionError) as error:
            why = "it holds half a character" if isinstance(error, UnicodeEncodeError) else error
            raise self.bad(where, why) from error
        return content

    def _object(self, where: str, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise self.bad(where, "it is no JSON object")
        return content


def _is_array(stream: BinaryIO) -> bool:
    """Whether the first sign of a file begins an array; the file is at its beginning then."""
    start = stream.read(LONGEST_LINE)
    stream.seek(0)
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def write_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON objects, which takes its place when it is whole.

    Args:
        file: its folder is made if there is none, but not the one above.
        lines: the objects.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    part.replace(file)
