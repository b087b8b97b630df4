# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The parameter `plans`: TensorRT's plans are refused where none fits, or built at configure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.registry import AUTO
from vlm_perception.engines.tensorrt.backend import TENSORRT
from vlm_perception.engines.tensorrt.load import tensorrt_installed
from vlm_perception.engines.tensorrt.plan_store import BuildOptions
from vlm_perception.nodes.process.errors import DoneError

if TYPE_CHECKING:
    from vlm_perception.deploy.tensorrt.build import Outcome

REFUSE, BUILD, BUILD_ONLY = "refuse", "build", "build_only"
MODES = (REFUSE, BUILD, BUILD_ONLY)


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


def build_plans(
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
        DoneError: with `build_only`, when all is built.
        VlmPerceptionError: a plan cannot be built; with the engine `auto` that is a warning.
    """
    wanted = engine == TENSORRT or (engine == AUTO and tensorrt_installed())
    if mode == REFUSE or not (wanted or mode == BUILD_ONLY):
        return
    only = None if mode == BUILD_ONLY else graphs
    try:
        outcomes = _build(bundle, only, logger)
    except (VlmPerceptionError, OSError) as error:
        if mode == BUILD_ONLY or engine == TENSORRT:
            raise
        logger.warning(f"no plans were built: {error}")
        return
    for outcome in outcomes:
        took = "was there" if outcome.build_s is None else f"took {outcome.build_s:.0f} s"
        logger.info(f"plan for {outcome.graph}: {outcome.path} ({took})")
    if mode == BUILD_ONLY:
        raise DoneError("the plans are built; restart the node with plans: refuse")


def _build(bundle: ModelBundle, only: Sequence[str] | None, logger: Any) -> list[Outcome]:
    """Build these graphs' plans, or all.

    Raises:
        EngineError: something that the builder needs is not installed, TensorRT itself included.
        VlmPerceptionError: a graph cannot be built.
    """
    try:
        # It needs onnx, which a node that only runs does without.
        from vlm_perception.deploy.tensorrt.build import build_bundle  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise EngineError(
            f"building plans needs {error.name}: `pip install {error.name}`, or build them with "
            "`vlm-perception build BUNDLE` where it is installed"
        ) from error
    return build_bundle(bundle, BuildOptions(), lambda graph: PhaseLog(logger, graph), only=only)
