# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Modules that need torch, which the robot does not have."""

from __future__ import annotations

import importlib
from typing import Any

from vlm_perception.curation.recipe import CurationError


def import_with_torch(module: str, what: str, instead: str) -> Any:
    """Import a module of this package.

    Args:
        module: its name.
        what: of the recipe needs it, in words.
        instead: what else the recipe may name, in words.

    Raises:
        CurationError: torch, or what belongs to it, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "vlm_perception":
            raise
        raise CurationError(
            f"{what} needs {error.name}, which is not installed: `python3 scripts/setup_venv.py "
            f"--train` in the repository installs it, and so does `pip install '.[train]'` there; "
            f"or {instead}"
        ) from error
