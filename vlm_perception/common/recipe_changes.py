# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What differs between two recipes, in words."""

from __future__ import annotations

from typing import Any


def changes(old: Any, new: Any, place: str = "") -> list[str]:
    """What differs between two parts of recipes, as JSON has them, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in dict.fromkeys((*old, *new))
            for change in changes(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [each for n, (a, b) in pairs for each in changes(a, b, f"{place}[{n}]")]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list):
        return [f"{place} had {len(old)} entries and has {len(new)} now"]
    return [f"{place} was {_shown(old)} and is {_shown(new)} now"]


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
