# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT's plans when a node configures: used, refused or built."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.choose import AUTO, TENSORRT
from vlm_perception.engines.tensorrt.load import tensorrt_installed
from vlm_perception.engines.tensorrt.plan_store import BuildOptions

REFUSE, BUILD, BUILD_ONLY = "refuse", "build", "build_only"
MODES = (REFUSE, BUILD, BUILD_ONLY)


class OnlyBuiltError(VlmPerceptionError):
    """The plans are built, and the node was started for nothing else."""


class PhaseLog:
    """Logs the outermost phases of a build."""

    def __init__(self, logger: Any, graph: str) -> None:
        """Log them here."""
        self._logger, self._graph = logger, graph

    def started(self, phase: str, parent: str, steps: int) -> None:
        """A phase begins."""
        if not parent:
            self._logger.info(f"TensorRT builds {self._graph}: {phase}, {steps} steps")

    def stepped(self, phase: str, done: int) -> None:
        """A step is done: there are too many to log."""

    def finished(self, phase: str) -> None:
        """A phase has ended."""


def prepare_plans(
    bundle: ModelBundle, graphs: Sequence[str], *, engine: str, mode: str, logger: Any
) -> None:
    """Build what is missing, if the mode is to build.

    Args:
        bundle: the model.
        graphs: those that the node runs; with `build_only` all of the bundle are built.
        engine: the parameter `engine`.
        mode: the parameter `plans`.
        logger: the node's.

    Raises:
        OnlyBuiltError: with `build_only`, when all is built.
        VlmPerceptionError: a plan cannot be built; with the engine `auto` that is a warning.
    """
    wanted = engine == TENSORRT or (engine == AUTO and tensorrt_installed())
    if mode == REFUSE or not (wanted or mode == BUILD_ONLY):
        return
    only = None if mode == BUILD_ONLY else graphs
    try:
        module = _builder()
        outcomes = module.build_bundle(
            bundle, BuildOptions(), lambda graph: PhaseLog(logger, graph), only=only
        )
    except (VlmPerceptionError, OSError) as error:
        if mode == BUILD_ONLY or engine == TENSORRT:
            raise
        logger.warning(f"no plans were built: {error}")
        return
    for outcome in outcomes:
        took = "was there" if outcome.build_s is None else f"took {outcome.build_s:.0f} s"
        logger.info(f"plan of {outcome.graph}: {outcome.path} ({took})")
    if mode == BUILD_ONLY:
        raise OnlyBuiltError("the plans are built; start the node again with plans: refuse")


def why_not_tensorrt(bundle: ModelBundle, graph: str, engine: str, logger: Any) -> dict[str, str]:
    """What log and diagnostics say where `auto` is not TensorRT."""
    if engine != AUTO:
        return {}
    obstacle = bundle.tensorrt_obstacle(graph)
    # Where it is installed, who chooses the engine warns of it.
    if not tensorrt_installed():
        logger.info(f"TensorRT is not used: {obstacle}")
    return {"tensorrt": f"not used: {obstacle}"} if obstacle else {}


def _builder() -> Any:
    """The builder; it needs onnx, which a node that only runs does without.

    Raises:
        EngineError: something that it needs is not installed.
    """
    try:
        return importlib.import_module("vlm_perception.deploy.tensorrt.build")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"to build plans needs {error.name}: `pip install {error.name}`, or build them with "
            "`vlm-perception build BUNDLE` where it is installed"
        ) from error
