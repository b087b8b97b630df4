# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The backend TensorRT: runs plans that deploy/tensorrt built of a bundle for this GPU."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from vlm_perception.common.machine import cache_directory
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import Engine
from vlm_perception.engines.tensorrt.load import tensorrt_module, tensorrt_version, this_machine
from vlm_perception.engines.tensorrt.load_probe import require_loadable
from vlm_perception.engines.tensorrt.plan_store import FOLDER, PlanDescription, find_plan

TENSORRT = "tensorrt"

_log = logging.getLogger(__name__)


class TensorRt:
    """Needs the packages tensorrt and pycuda, and an NVIDIA GPU."""

    name = TENSORRT
    runs_plans = True

    def version(self) -> str:
        """Version of its Python package; empty: it is not installed."""
        return tensorrt_version()

    def prepare(self, graph: GraphFile) -> Path:
        """Find the newest plan of a graph that fits this machine, and see that it loads.

        Raises:
            EngineError: TensorRT or the GPU is missing, or no plan fits.
        """
        path, description = find_plan(graph, this_machine())
        _require_tried(path, description)
        return path

    def load(self, file: Path, graph: GraphFile, *, threads: int) -> Engine:
        """Load a plan; the work is the GPU's, whatever the number of threads.

        Raises:
            EngineError: it does not load.
        """
        engine: Engine
        if graph.decoder:
            module = tensorrt_module("vlm_perception.engines.tensorrt.decoder")
            engine = module.TensorRtDecoder(file)
        else:
            module = tensorrt_module("vlm_perception.engines.tensorrt.engine")
            engine = module.TensorRtEngine(file, urgent=graph.urgent)
        return engine


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
        _log.warning("%s cannot be written, so each start checks the plan again: %s", mark, error)
