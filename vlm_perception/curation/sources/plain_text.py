# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What sources say of an image as valid text: names and lists may hold bytes of any encoding."""

from __future__ import annotations

from typing import Any

from vlm_perception.curation.tasks import Record
from vlm_perception.perception.tokenizer import TextError, require_text


def in_plain_text(record: Record) -> Record:
    r"""The record with what is no text escaped, as `\udcff`; such captions are left out.

    A caption with an escape in it would be learnt; `notes` says why there is one less.
    """
    captions, notes = [], list(record.get("notes", ()))
    for caption in record.get("captions", ()):
        try:
            require_text(caption["text"])
        except TextError as error:
            notes.append(f"a caption is left out: {error}")
        else:
            captions.append(caption)
    known = {"captions": captions} if "captions" in record else {}
    known |= {"notes": notes} if notes else {}
    return dict(_escaped({**record, **known}))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    if isinstance(value, dict):
        return {name: _escaped(each) for name, each in value.items()}
    return value
