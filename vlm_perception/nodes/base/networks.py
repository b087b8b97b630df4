# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the nodes that run networks share: their parameters, and what is done before they load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.machine import available_memory
from vlm_perception.engines.registry import AUTO, choices, why_unusable, with_plans
from vlm_perception.nodes.base.lifecycle import NodeSettings
from vlm_perception.nodes.base.parameters import CONFIGURE, setting
from vlm_perception.nodes.base.tensorrt_plans import MODES, REFUSE, build_plans


@dataclass(frozen=True)
class NetworkSettings(NodeSettings):
    """Parameters of a lifecycle node that runs networks."""

    bundle: str = setting(
        "roadworld-nano",
        "Model bundle: its name or its directory; the same for vision_encoder and "
        "language_reasoner.",
        change=CONFIGURE,
    )
    engine: str = setting(
        AUTO,
        "What runs the network. With auto, TensorRT where it has plans for this machine, else the "
        "faster of the others: the first configure measures them, and later ones know it from the "
        "cache.",
        choices=choices(),
        change=CONFIGURE,
    )
    plans: str = setting(
        REFUSE,
        "Where TensorRT has no plan that fits: `refuse` it, `build` it while the node configures, "
        "which takes minutes, or `build_only`: build all plans of the bundle and end the process.",
        choices=MODES,
        change=CONFIGURE,
    )
    threads: int = setting(
        1,
        "Threads that the network may use.",
        minimum=1,
        maximum=64,
        change=CONFIGURE,
    )


def prepare_networks(
    bundle: ModelBundle, graphs: Sequence[str], settings: NetworkSettings, logger: Any
) -> dict[str, str]:
    """Build what is missing, where that is asked for, before the graphs are loaded.

    Args:
        bundle: the model.
        graphs: those that the node runs.
        settings: the node's parameters.
        logger: the node's.

    Returns:
        The diagnostics about backends that `auto` would prefer but cannot use.

    Raises:
        DoneError: the node was to build plans only, and they are built.
        VlmPerceptionError: a plan cannot be built; with the engine `auto` that is a warning.
    """
    build_plans(bundle, graphs, engine=settings.engine, mode=settings.plans, logger=logger)
    if settings.engine != AUTO:
        return {}
    notes = {}
    files = [bundle.graph_file(graph) for graph in graphs]
    for backend in with_plans():
        found = why_unusable(backend, files)
        # Where it is installed, who chooses the backend warns of it.
        if found and not backend.version():
            logger.info(f"{backend.name} is not used: {found}")
        if found:
            notes[backend.name] = f"not used: {found}"
    return notes


def tell_memory(bundle: ModelBundle, needed: int, logger: Any) -> None:
    """Say what a bundle is going to take, before it takes it.

    Args:
        bundle: the model.
        needed: bytes of memory that the node will take, as estimated.
        logger: the node's.
    """
    available = available_memory()
    said = f"bundle {bundle.manifest.name} will take about {needed / 1e6:.0f} MB of memory"
    if needed <= available:
        logger.info(said)
        return
    logger.warning(
        f"{said}, and this machine has {available / 1e6:.0f} MB left: stop other programs, or use "
        "a smaller bundle"
    )
