# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a file says about the images of its folder, in sentences of one or several languages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.datasets.sample import Caption
from vlm_perception.perception.tokenizer import TextError, require_text

CAPTIONS_FILE = "captions.jsonl"
UNKNOWN = "und"
"""The language of captions that have none, as BCP 47 writes it."""
_TAG = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8})*")


class CaptionsError(VlmPerceptionError):
    """A folder's captions are missing or damaged; the message says what and where."""


def is_language(text: str) -> bool:
    """Whether a text looks like a tag of BCP 47, in any spelling with capitals."""
    return _TAG.fullmatch(text.lower()) is not None


def is_in(tag: str, languages: Iterable[str]) -> bool:
    """Whether a tag is one of some languages, or its region is all that differs from one.

    Args:
        tag: of BCP 47, in any spelling with capitals.
        languages: tags.
    """
    low = tag.lower()
    return any(low == each or low.startswith(f"{each}-") for each in map(str.lower, languages))


class Languages:
    """Tags that differ in capitals alone are one language, spelt as it is written first."""

    def __init__(self) -> None:
        """None is known."""
        self._spellings: dict[str, str] = {}

    def spelt(self, tag: str) -> str:
        """The first spelling of a tag."""
        return self._spellings.setdefault(tag.lower(), tag)


def read_captions(file: Path) -> list[tuple[str, tuple[Caption, ...]]]:
    """All that `each_captioned` gives."""
    return list(each_captioned(file))


def each_captioned(file: Path) -> Iterator[tuple[str, tuple[Caption, ...]]]:
    """The captions of each line, after the name of their image.

    A line has captions of one language, `und` where it names none. An image may have several lines:
    `{"image": "0001.jpg", "captions": ["a red bus"], "language": "en"}`.

    Raises:
        CaptionsError: the file is missing or damaged, or holds a line without captions.
    """
    lines = JsonLines(
        file,
        "a captioned image",
        '{"image": "0001.jpg", "captions": ["a red bus"], "language": "en"}',
        CaptionsError,
    )
    languages, found = Languages(), False
    for where, content in lines:
        found = True
        yield _captioned(lines, where, content, languages)
    if not found:
        raise CaptionsError(f"{file} names no image; write lines such as {lines.example}")


def _captioned(
    lines: JsonLines, where: str, content: Mapping[str, Any], languages: Languages
) -> tuple[str, tuple[Caption, ...]]:
    name, texts = content.get("image"), content.get("captions")
    language = content.get("language", UNKNOWN)
    if not isinstance(name, str):
        raise lines.bad(where, "`image` must be a name")
    if not isinstance(texts, list) or not texts:
        raise lines.bad(where, "`captions` must be a list of one text or more")
    if not isinstance(language, str) or not is_language(language):
        raise lines.bad(where, "`language` must be a tag such as en or pt-BR")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise lines.bad(where, "each of `captions` must be a text that is not empty")
        try:
            require_text(text)
        except TextError as error:
            raise lines.bad(where, error) from error
    spelt = languages.spelt(language)
    return name, tuple(Caption(text, spelt) for text in texts)
