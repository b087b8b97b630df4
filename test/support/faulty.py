# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run a module so that functions raise what numpy does for shapes that do not fit, as a bug would.

Usage: python -m faulty FILE PLACES MODULE [ARGUMENT...]

PLACES are the functions, as `module:Class.method`, with spaces between them; they fail while FILE
is there.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    flag, places, module, *arguments = sys.argv[1:]
    for place in places.split():
        home, _, name = place.partition(":")
        owner, _, name = name.rpartition(".")
        _replace(attrgetter(owner)(importlib.import_module(home)), name, Path(flag))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _replace(owner: Any, name: str, flag: Path) -> None:
    function = getattr(owner, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if flag.exists():
            np.zeros(3) + np.zeros(4)
        return function(*arguments, **named)

    setattr(owner, name, faulty)


if __name__ == "__main__":
    main()
