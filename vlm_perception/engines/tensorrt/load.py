# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Imports what needs TensorRT or CUDA, with an error that says what to do if it is missing."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from vlm_perception.engines.base import EngineError
from vlm_perception.engines.tensorrt.plan_store import Machine

LEAST_VERSION = (10, 3)
_MISSING = {
    "tensorrt": (
        "TensorRT is not installed: on a Jetson run `sudo apt install nvidia-jetpack`, elsewhere "
        "`pip install tensorrt`"
    ),
    "pycuda": "pycuda is not installed: `pip install pycuda`",
}


def tensorrt_installed() -> bool:
    """Whether its Python package is there, whatever else is missing."""
    found = find_spec("tensorrt")
    # A folder of that name, as a bundle has one, is no package.
    return found is not None and found.origin is not None


def tensorrt_version() -> str:
    """Version of its Python package: empty where it is missing, `unknown` where it does not load.

    `tensorrt_module` explains why not.
    """
    if not tensorrt_installed():
        return ""
    try:
        return str(importlib.import_module("tensorrt").__version__)
    # The package of TensorRT's libraries loads them by itself.
    except (ImportError, OSError):
        return "unknown"


def tensorrt_module(name: str) -> Any:
    """One of the modules that need TensorRT or CUDA.

    Raises:
        EngineError: something is not installed or too old; the message says what to do.
    """
    if not tensorrt_installed():
        raise EngineError(f"{_MISSING['tensorrt']}; or choose another engine")
    try:
        version = str(importlib.import_module("tensorrt").__version__)
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            raise EngineError(
                f"TensorRT {version} is too old, {least} is needed: use JetPack 6 or newer, or "
                "choose another engine"
            )
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        words = _MISSING.get(missing, f"TensorRT needs {missing}, which is not installed")
        raise EngineError(f"{words}; or choose another engine") from error
    # The package of TensorRT's libraries loads them by itself.
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT or CUDA cannot be loaded ({error}): install the driver and the libraries "
            "that match the packages, or choose another engine"
        ) from error


def this_machine() -> Machine:
    """What plans must have been built for.

    Raises:
        EngineError: TensorRT is not installed, or there is no GPU.
    """
    machine: Machine = tensorrt_module("vlm_perception.engines.tensorrt.engine").this_machine()
    return machine
