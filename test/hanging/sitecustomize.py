# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a function hang, from outside, in a process started with this folder in PYTHONPATH.

HANGING names the function, as `module:Class.method`; it waits as long as there is a file at
HANGS_WHILE.
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

MODULE, _, ATTRIBUTE = os.environ.get("HANGING", "").partition(":")
HANGS_WHILE = Path(os.environ.get("HANGS_WHILE", "/nonexistent"))


class Finder(importlib.abc.MetaPathFinder):
    """Replaces the function as soon as its module has been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_replace(module: ModuleType) -> None:
            load(module)
            owner, _, last = ATTRIBUTE.rpartition(".")
            place = attrgetter(owner)(module) if owner else module
            setattr(place, last, hanging(getattr(place, last)))

        spec.loader.exec_module = load_and_replace  # type: ignore[method-assign]
        return spec


def hanging(function: Any) -> Any:
    def hangs(*args: Any, **kwargs: Any) -> Any:
        while HANGS_WHILE.exists():
            time.sleep(0.02)
        return function(*args, **kwargs)

    return hangs


sys.meta_path.insert(0, Finder())
