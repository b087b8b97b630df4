# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `curate calibrate` has found for a set, and which of it a recipe refers to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_perception.curation.recipe import CurationError

THRESHOLDS = "thresholds.json"
CALIBRATED = "calibrated"


def read_thresholds(folder: Path) -> dict[str, Any]:
    """The thresholds of a set, by the part of the recipe that they belong to; empty: none.

    Raises:
        CurationError: the file is damaged.
    """
    file = folder / THRESHOLDS
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CurationError(
            f"{file} cannot be read ({error}); `vlm-perception curate calibrate {folder}` writes it"
        ) from error
    return dict(found) if isinstance(found, dict) else {}


def referred_to(folder: Path, part: dict[str, Any]) -> dict[str, Any]:
    """What a part of a recipe, as JSON has it, takes from the thresholds of the set."""
    names = [name for name, content in part.items() if _refers(content)]
    known = read_thresholds(folder) if names else {}
    return {name: known.get(name) for name in names}


def _refers(content: Any) -> bool:
    if isinstance(content, dict):
        return any(map(_refers, content.values()))
    return bool(content == CALIBRATED)
