# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The model card of a checkpoint: README.md with a YAML header, which names the licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.common.yaml_files import YamlError, parse_yaml

CARD = "README.md"
NO_LICENCE = "not stated in its model card"

_HEADER = re.compile(r"\A\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ModelCard:
    """The contents of a model card."""

    licence: str
    """`apache-2.0`, or name and link of one that the hub does not know; NO_LICENCE."""
    text: str
    """Without the header."""


def read_card(folder: Path) -> ModelCard:
    """Read the card of a checkpoint; a missing or damaged one counts as empty.

    Raises:
        OSError: it is there and cannot be read.
    """
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    header = _HEADER.match(text)
    if header is None:
        return ModelCard(NO_LICENCE, text)
    try:
        content = parse_yaml(header[1].encode())
    except YamlError:
        content = None
    return ModelCard(_licence(content), text[header.end() :])


def _licence(header: Any) -> str:
    """The licence as https://huggingface.co/docs/hub/model-cards describes the header's keys."""
    keys = header if isinstance(header, dict) else {}
    named = keys.get("license")
    if named == "other":
        named = keys.get("license_name") or named
    if not named:
        return NO_LICENCE
    names = ", ".join(map(str, named)) if isinstance(named, list) else str(named)
    link = keys.get("license_link")
    return f"{names} ({link})" if link else names
