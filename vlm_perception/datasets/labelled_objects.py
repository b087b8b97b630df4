# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a file says about the images of its folder: which objects can be seen in each."""

from __future__ import annotations

import os
from pathlib import Path

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.perception.tokenizer import TextError, require_text

OBJECTS_FILE = "objects.jsonl"


class ObjectsError(VlmPerceptionError):
    """A folder's objects are missing or damaged; the message says what and where."""


def read_objects(file: Path) -> list[tuple[str, tuple[str, ...]]]:
    """The objects of each image, after its name: everything that can be seen, each once.

    `{"image": "0001.jpg", "objects": ["bus", "traffic light"]}`, the format of POPE's annotations
    (github.com/AoiDragon/POPE, README). Other keys are passed over. An image without objects has an
    empty list. Names that differ only in case and blanks are one, as it is written first.

    Raises:
        ObjectsError: the file is missing or damaged, names an image twice, or names none, or no
            object in any.
    """
    lines = JsonLines(
        file,
        "an image with its objects",
        '{"image": "0001.jpg", "objects": ["bus", "traffic light"]}',
        ObjectsError,
    )
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    spellings: dict[str, str] = {}
    for where, content in lines:
        name, objects = content.get("image"), content.get("objects")
        if not isinstance(name, str) or not name.strip():
            raise lines.bad(where, "`image` must be a name")
        if not isinstance(objects, list):
            raise lines.bad(where, "`objects` must be a list of names")
        plain = os.path.normpath(name)
        if plain in found:
            raise ObjectsError(
                f"{where}: the image {name} was there before; write all its objects in one line"
            )
        named = [_object(lines, where, each) for each in objects]
        known = (spellings.setdefault(each.casefold(), each) for each in named)
        found[plain] = name, tuple(dict.fromkeys(known))
    if not found:
        raise ObjectsError(f"{file} names no image; write lines such as {lines.example}")
    if not spellings:
        raise ObjectsError(
            f"{file} names no object in any image, so that nothing can be found in them; name all "
            "that can be seen"
        )
    return list(found.values())


def _object(lines: JsonLines, where: str, name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise lines.bad(where, "each of `objects` must be a name")
    try:
        require_text(name)
    except TextError as error:
        raise lines.bad(where, error) from error
    return " ".join(name.split())
