# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Finds and loads a plan where TensorRT is installed, and says what to do where it is not."""

from __future__ import annotations

import hashlib
import importlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlm_perception.common.machine import cache_directory
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.tensorrt.load_probe import require_loadable
from vlm_perception.engines.tensorrt.plan_store import FOLDER, Machine, PlanDescription, find_plan

LEAST_VERSION = (10, 3)
_MISSING = {
    "tensorrt": "TensorRT is not installed: on a Jetson `sudo apt install nvidia-jetpack` brings "
    "it, elsewhere `pip install tensorrt`",
    "pycuda": "pycuda is not installed: `pip install pycuda`",
}

_log = logging.getLogger(__name__)


def tensorrt_installed() -> bool:
    """Whether its Python package is there, whatever else is missing."""
    found = find_spec("tensorrt")
    # A folder of that name, as a bundle has one, is no package.
    return found is not None and found.origin is not None


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
            "that belong to the packages, or choose another engine"
        ) from error


def this_machine() -> Machine:
    """What plans must have been built for.

    Raises:
        EngineError: TensorRT is not installed, or there is no GPU.
    """
    machine: Machine = tensorrt_module("vlm_perception.engines.tensorrt.engine").this_machine()
    return machine


def fitting_plan(
    bundle: Path, digest: str, graph: str, graph_sha256: str
) -> tuple[Path, PlanDescription]:
    """The plan of a graph for this machine.

    Args:
        bundle: the bundle's directory.
        digest: the bundle's digest.
        graph: the bundle's graph that it computes.
        graph_sha256: hash of the file that it was made of.

    Raises:
        EngineError: TensorRT or the GPU is missing, or no plan fits; the message says what to do.
    """
    path, description = find_plan(bundle, digest, graph, graph_sha256, this_machine())
    _require_tried(path, description)
    return path, description


def load_plan(path: Path, *, decoder: bool, urgent: bool) -> Any:
    """Load a plan.

    Args:
        path: the plan.
        decoder: whether it is a language model's; then the KV cache lives on the device.
        urgent: its work goes before that of other plans.

    Raises:
        EngineError: it does not load.
    """
    if decoder:
        return tensorrt_module("vlm_perception.engines.tensorrt.decoder").TensorRtDecoder(path)
    return tensorrt_module("vlm_perception.engines.tensorrt.engine").TensorRtEngine(
        path, urgent=urgent
    )


def _require_tried(path: Path, description: PlanDescription) -> None:
    """Load a plan in another process before the first time that one loads it in this.

    Raises:
        EngineError: it does not load.
    """
    device = tensorrt_module("vlm_perception.engines.tensorrt.cuda").open_device()
    tried = f"{description.sha256} {this_machine().tensorrt} {device.driver_version}"
    mark = cache_directory() / FOLDER / f"{hashlib.sha256(tried.encode()).hexdigest()[:24]}.loads"
    if mark.exists():
        return
    require_loadable(path)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        _log.warning("%s cannot be written, and each start tries the plan anew: %s", mark, error)
