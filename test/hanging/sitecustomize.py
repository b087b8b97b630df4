# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes functions hang or fail, from outside, in a process started with this folder in PYTHONPATH.

HANGING names the functions, as `module:Class.method`, with spaces between them. They wait as long
as there is a file at HANGS_WHILE, and raise as long as there is one at FAILS_WHILE.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

PLACES = dict(place.split(":") for place in os.environ.get("HANGING", "").split())
HANGS_WHILE = Path(os.environ.get("HANGS_WHILE", "/dev/null/none"))
FAILS_WHILE = Path(os.environ.get("FAILS_WHILE", "/dev/null/none"))


class Finder(importlib.abc.MetaPathFinder):
    """Replaces the functions as soon as their modules have been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        attribute = PLACES.pop(name, "")
        if not attribute:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_replace(module: ModuleType) -> None:
            load(module)
            owner, _, last = attribute.rpartition(".")
            place = attrgetter(owner)(module) if owner else module
            setattr(place, last, tampered(getattr(place, last)))

        spec.loader.exec_module = load_and_replace  # type: ignore[method-assign]
        return spec


def tampered(function: Any) -> Any:
    def hangs(*args: Any, **kwargs: Any) -> Any:
        while HANGS_WHILE.exists():
            time.sleep(0.02)
        if FAILS_WHILE.exists():
            raise ValueError("operands could not be broadcast together with shapes (3,) (4,)")
        return function(*args, **kwargs)

    return hangs


sys.meta_path.insert(0, Finder())
