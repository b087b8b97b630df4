# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run a node's module so that one function hangs while a file is there.

Usage: python -m vlm_perception.evaluation.chaos.testbed.hangable FILE PLACES MODULE [ARGUMENT...]

PLACES are functions, as `module:Class.method`, with commas between them. A hang cannot be ended,
like a driver that waits for a device; if the file contains OBEYS, a run of ONNX Runtime continues
once it is asked to end.
"""

from __future__ import annotations

import importlib
import runpy
import sys
import time
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import Any

POLL_S = 0.01
OBEYS = "obeys"
ENGINE = ",".join(
    (
        "onnxruntime.capi.onnxruntime_inference_collection:InferenceSession.run",
        "vlm_perception.engines.openvino:OpenVinoEngine._infer",
    )
)
"""A run of a network, whichever engine `auto` took."""


def main() -> None:
    """Replace what is to hang, then become the module."""
    flag, places, module, *arguments = sys.argv[1:]
    for place in places.split(","):
        _replace(place, Path(flag))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _replace(place: str, flag: Path) -> None:
    home, _, name = place.partition(":")
    owner: Any = importlib.import_module(home)
    *parents, name = name.split(".")
    if parents:
        owner = attrgetter(".".join(parents))(owner)
    function = getattr(owner, name)

    @wraps(function)
    def hangable(*arguments: Any, **named: Any) -> Any:
        while flag.exists() and not (_must_end(arguments) and flag.read_text() == OBEYS):
            time.sleep(POLL_S)
        return function(*arguments, **named)

    setattr(owner, name, hangable)


def _must_end(arguments: tuple[Any, ...]) -> bool:
    return any(getattr(each, "terminate", False) is True for each in arguments)


if __name__ == "__main__":
    main()
