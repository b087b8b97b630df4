# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads files of one JSON object a line that anybody may have written, in bounded memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

LONGEST_LINE = 1 << 20
"""Bytes."""
MOST_BYTES = 1 << 28


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

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each object after the words that say where it is; empty lines are passed over.

        Raises:
            VlmPerceptionError: of the kind `error`: the file cannot be read or is too large, or a
                line is no JSON object.
        """
        try:
            with open_ordinary(self.file) as stream:
                for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b"")):
                    where = f"{self.file}, line {number + 1}"
                    if stream.tell() > MOST_BYTES:
                        raise self.error(f"{self.file} is larger than {MOST_BYTES} bytes; split it")
                    text = line if number else line.removeprefix(codecs.BOM_UTF8)
                    if text.strip():
                        yield where, self._parse(where, text)
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

    def _parse(self, where: str, line: bytes) -> dict[str, Any]:
        if len(line) > LONGEST_LINE:
            raise self.bad(where, f"it has more than {LONGEST_LINE} bytes")
        try:
            content = json.loads(line.decode("utf-8"))
        # The last one: lists within lists within lists.
        except (ValueError, RecursionError) as error:
            raise self.bad(where, error) from error
        if not isinstance(content, dict):
            raise self.bad(where, "it is no JSON object")
        return content
