# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads YAML that anybody may have written: in bounded time and memory, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

MOST_BYTES = 1 << 20
DEEPEST = 50
"""Lists and mappings within each other; Python's own parsers recurse."""
LONGEST_SCALAR = 1 << 16
"""Characters of one text or number: numbers with base 60 take quadratic time."""
BYTES_PER_VALUE = 8
"""A file may contain as many values as one of the maximum size with values this short."""

# The one in C is six times as fast; PyYAML can be built without it.
_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(VlmPerceptionError):
    """A file cannot be used as YAML; the message says why and what to do."""


def read_yaml(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Read one YAML document of plain values.

    Aliases count as often as they would be expanded, before anything is built.

    Args:
        path: the file.
        most_bytes: its greatest size.

    Raises:
        OSError: it is no ordinary file, or cannot be opened.
        YamlError: it is no YAML, or too large when written out.
    """
    return parse_yaml(_read_bytes(path, most_bytes), most_bytes=most_bytes)


def parse_yaml(content: bytes, *, most_bytes: int = MOST_BYTES) -> Any:
    """Take one YAML document of plain values from bytes, as `read_yaml` does from a file.

    Raises:
        YamlError: it is no YAML, or too large when written out.
    """
    try:
        text = content.decode("utf-8")
        _check_size(text, most_bytes // BYTES_PER_VALUE)
        return yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise YamlError("it is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise YamlError(_in_one_line(error)) from error
    # What PyYAML lets through where a value is not what its tag says.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise YamlError(
            f"a value in it cannot be parsed ({error}); put strings in quotes"
        ) from error


def read_as_json(path: Path) -> str:
    """Read one YAML document of plain values as JSON, of which strict models take lists for tuples.

    Raises:
        OSError: it is no ordinary file, or cannot be opened.
        YamlError: it is no YAML, too large when written out, or holds what JSON has no place for.
    """
    content = read_yaml(path)
    try:
        text = json.dumps(content, ensure_ascii=False)
        text.encode("utf-8")
    # Dates, bytes and sets, and halves of characters.
    except (TypeError, ValueError) as error:
        raise YamlError(
            f"a value in it cannot be parsed ({error}); put strings in quotes"
        ) from error
    return text


def _read_bytes(path: Path, most: int) -> bytes:
    with open_ordinary(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise YamlError(f"it is larger than {most} bytes; give a smaller YAML file")
    return content


def _check_size(text: str, most: int) -> None:
    """Count the values of a document as if each alias were written out."""
    counts, names, anchors = [0], [""], {}
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            names.append(event.anchor or "")
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            anchors[event.anchor] = 1
            if len(event.value) > LONGEST_SCALAR:
                raise YamlError(f"a value has more than {LONGEST_SCALAR} characters; shorten it")
        elif isinstance(event, yaml.CollectionEndEvent):
            total = counts.pop()
            counts[-1] += total
            anchors[names.pop()] = total
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise YamlError(
                    f"the alias *{event.anchor} refers to itself or to nothing; write out the value"
                )
            counts[-1] += anchors[event.anchor]
        if len(counts) > DEEPEST:
            raise YamlError(f"it is nested more than {DEEPEST} deep; make it flatter")
        if sum(counts) > most:
            raise YamlError(
                f"it contains more than {most} values once aliases are expanded; shorten it"
            )


def _in_one_line(error: yaml.YAMLError) -> str:
    """What is wrong and where; a remedy follows from the place."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"it is not valid YAML: {' '.join(str(problem).split())}{place}; fix it there"
