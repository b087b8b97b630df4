# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The formats that are known, by name."""

from __future__ import annotations

from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import BoxFormat
from vlm_perception.perception.locating.formats.kosmos2 import Kosmos2Tokens
from vlm_perception.perception.locating.formats.paligemma import PaliGemmaTokens
from vlm_perception.perception.locating.formats.qwen2_tokens import Qwen2Tokens
from vlm_perception.perception.locating.formats.qwen_json import Qwen3Json, Qwen25Json

FORMATS: dict[str, BoxFormat] = {
    each.name: each
    for each in (Qwen2Tokens(), Qwen25Json(), Qwen3Json(), PaliGemmaTokens(), Kosmos2Tokens())
}


def format_named(name: str) -> BoxFormat:
    """The format of a name.

    Raises:
        LocateError: there is none of that name.
    """
    if name not in FORMATS:
        raise LocateError(f"{name!r} is no format of boxes; there are {', '.join(FORMATS)}")
    return FORMATS[name]
