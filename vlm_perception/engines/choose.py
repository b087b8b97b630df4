# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `auto` means: the backend with plans for this machine, else the one measured as fastest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.common.measurement_cache import Measurement, kept
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import Array, Engine, EngineError
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.engines.registry import why_unusable, with_graphs, with_plans

CACHE_NAME = "engines.json"
WARM_UP_ROUNDS = 2
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
LONGEST_S = 3.0
MARGIN = 0.95
"""Another engine than ONNX Runtime must take this share of its time at most: it is one more library
in memory, and not worth a difference that the next measurement would turn round."""

Workload = Sequence[Mapping[str, Array]]
"""Inputs of the runs that count, one after the other, as a node makes them."""

_log = logging.getLogger(__name__)


class Decision(Measurement):
    """What the measurement of engines found."""

    engine: str
    median_ms: dict[str, float]


def planned(graphs: Sequence[GraphFile]) -> str:
    """Name of the backend that has plans of all these graphs for this machine; empty: none has."""
    for backend in with_plans():
        found = why_unusable(backend, graphs)
        if not found:
            return backend.name
        # Where it is installed it is meant to be used.
        level = logging.WARNING if backend.version() else logging.INFO
        _log.log(level, "%s is not used: %s", backend.name, found)
    return ""


def measurable() -> dict[str, str]:
    """Version of each backend that is installed and runs graphs; ONNX Runtime always is."""
    versions = {backend.name: backend.version() for backend in with_graphs()}
    return {name: version for name, version in versions.items() if version}


def choose(
    subject: Mapping[str, Any],
    load: Callable[[str], Engine],
    workload: Workload,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Name of the backend that does a workload fastest on this machine, among those with graphs.

    The first call measures all of them in turn and keeps the decision in a file of the user's
    cache; it holds for the same subject, engines and processor.

    Args:
        subject: what is run, and with how many threads; for JSON.
        load: loads the engine of a name and checks its outputs; an error of this package, as
            EngineError and BundleError, leaves it out.
        workload: what to measure with.
        clock: seconds.

    Raises:
        EngineError: no engine could be loaded.
    """
    versions = measurable()
    if len(versions) == 1:
        return next(iter(versions))
    question = {**subject, "engines": versions, "cpu": cpu_model(), "cores": cpu_count()}

    def measure() -> tuple[Decision, bool]:
        medians = _measure(_load_all(versions, load), workload, clock)
        return Decision(question=question, engine=_fastest(medians), median_ms=medians), True

    return kept(CACHE_NAME, Decision, question, measure).engine


def _load_all(names: Iterable[str], load: Callable[[str], Engine]) -> dict[str, Engine]:
    """The engines that take part.

    Raises:
        EngineError: none does; with the reason of each.
    """
    engines, refused = {}, []
    for name in names:
        try:
            engines[name] = load(name)
        except VlmPerceptionError as error:
            refused.append(str(error))
            _log.warning("the engine %s is left out of the selection: %s", name, error)
    if not engines:
        raise EngineError(f"no engine can be used: {'; '.join(refused)}")
    return engines


def _measure(
    engines: Mapping[str, Engine], workload: Workload, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of the workload in each engine; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for engine in list(engines.values()) * WARM_UP_ROUNDS:
        _run(engine, workload)
    began = clock()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and clock() - began > LONGEST_S:
            break
        for name, engine in engines.items():
            started = clock()
            _run(engine, workload)
            times[name].append(1e3 * (clock() - started))
    return {name: median(each) for name, each in times.items()}


def _run(engine: Engine, workload: Workload) -> None:
    for inputs in workload:
        engine.run(inputs)


def _fastest(medians: Mapping[str, float]) -> str:
    best = min(medians, key=medians.__getitem__)
    usual = medians.get(ONNXRUNTIME)
    return best if usual is None or medians[best] < MARGIN * usual else ONNXRUNTIME
