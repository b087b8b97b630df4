# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which format a language model writes boxes in, if any."""

from __future__ import annotations

import re

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.perception.language.served.settings import BY_MODEL, ServedSettings
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import BoxFormat
from vlm_perception.perception.locating.formats.known import FORMATS, format_named

# What models are called on servers: on the hub, by Ollama and by llama.cpp.
_NAMES = {
    "qwen2.5-vl": re.compile(r"qwen-?2[.-]?5-?vl"),
    "qwen3-vl": re.compile(r"qwen-?3-?vl"),
    "qwen2-vl": re.compile(r"qwen-?2-?vl"),
    "paligemma": re.compile(r"pali-?gemma"),
    # Kosmos-2.5 reads texts and writes in a way of its own.
    "kosmos-2": re.compile(r"kosmos-?2(?![.-]?5)"),
}


def format_of_bundle(manifest: Manifest) -> BoxFormat:
    """How a bundle's language model writes boxes.

    Raises:
        LocateError: it has none, or that is not known.
    """
    language = manifest.language
    if language is None:
        raise LocateError(
            f"bundle {manifest.name} has no language model that could write boxes; use the method "
            "patch"
        )
    if language.locate is None:
        raise LocateError(
            f"the language model of bundle {manifest.name} is not known to write boxes; use the "
            "method patch, or export it with `locate` in bundle.yaml if it was trained to"
        )
    return format_named(language.locate.format)


def format_of_served(settings: ServedSettings) -> BoxFormat:
    """How a served model writes boxes, by the settings or by its name.

    Raises:
        LocateError: that is not known.
    """
    if settings.locate_format != BY_MODEL:
        return format_named(settings.locate_format)
    name = settings.model.lower().replace("_", "-")
    for known, pattern in _NAMES.items():
        if pattern.search(name):
            return format_named(known)
    raise LocateError(
        f"the served model {settings.model} is not known to write boxes; use the method patch, or "
        f"set locate_format to one of {', '.join(FORMATS)}"
    )
