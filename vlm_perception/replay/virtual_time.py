# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual time: how long the robot's machine would take, whatever machine replays.

The perception objects run as they are. Their clock stands still, except while one of their graphs
runs: then it advances by that graph's time in the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.duration_histogram import Durations
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.engines.base import Array, Engine, TensorSpec
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.replay.recordings.errors import ReplayError

Milliseconds = Annotated[float, Field(ge=0.0, le=60_000.0)]


class GraphCost(BaseModel):
    """Milliseconds that a graph takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Milliseconds = 0.0
    """For each run."""
    token: Milliseconds = 0.0
    """For each token that the decoder is fed in a run."""


class LatencyModel(BaseModel):
    """Milliseconds that each part of the pipeline takes on the robot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame: Milliseconds = 5.0
    """What an image takes beside the networks: transport, decoding, preprocessing, tags."""
    transport: Milliseconds = 1.0
    """From one node to the next."""
    graphs: dict[str, GraphCost] = {
        "vision": GraphCost(run=5.0),
        "language_vision": GraphCost(run=60.0),
        "projector": GraphCost(run=0.3),
        "decoder": GraphCost(run=0.8, token=0.03),
    }
    """By the graph's name without its suffix; a graph that is not named here takes no time."""


def load_model(file: Path) -> LatencyModel:
    """Read a latency model from a YAML file.

    Raises:
        ReplayError: it cannot be read, or holds something else.
    """
    try:
        content = read_yaml(file)
        return LatencyModel.model_validate(content)
    except ValidationError as error:
        raise ReplayError(f"{file} is not a latency model: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise ReplayError(f"{file} cannot be read: {error}") from error


class VirtualClock:
    """Seconds that pass only on request."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds since the beginning of the replay, on the robot's steady clock."""
        return self.now

    def advance(self, milliseconds: float) -> None:
        """Let time pass."""
        self.now += milliseconds * 1e-3


class WallTimes:
    """What the runs of a graph have taken here, by the tokens that they were fed."""

    def __init__(self) -> None:
        """Begin without any."""
        self._runs: dict[int, Durations] = {}

    @property
    def runs(self) -> int:
        """How many there were."""
        return sum(each.count for each in self._runs.values())

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a run."""
        self._runs.setdefault(tokens, Durations()).add(seconds)

    def cost_ms(self) -> dict[str, float]:
        """Milliseconds a run, and a token where runs were fed different numbers of them."""
        medians = {tokens: 1e3 * each.percentile(50) for tokens, each in self._runs.items()}
        fewest, most = min(medians), max(medians)
        if fewest == most:
            return {"run": round(medians[fewest], 3)}
        token = max(0.0, (medians[most] - medians[fewest]) / (most - fewest))
        run = max(0.0, medians[fewest] - token * fewest)
        return {"run": round(run, 3), "token": round(token, 4)}


class PacedEngine:
    """An engine that lets virtual time pass while it runs."""

    def __init__(
        self, engine: Engine, cost: GraphCost, clock: VirtualClock, wall: WallTimes
    ) -> None:
        """Wrap an engine; its outputs are left as they are."""
        self._engine, self._cost, self._clock, self._wall = engine, cost, clock, wall

    @property
    def name(self) -> str:
        """Engine and version."""
        return self._engine.name

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes."""
        return self._engine.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        return self._engine.outputs

    @property
    def half_precision(self) -> bool:
        """Whether it computes in FP16 what is FP32 in the graph."""
        return self._engine.half_precision

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Raises:
            EngineError: as the engine's own run.
        """
        tokens = inputs["inputs_embeds"].shape[1] if "inputs_embeds" in inputs else 0
        began = time.perf_counter()
        outputs = self._engine.run(inputs)
        self._wall.add(tokens, time.perf_counter() - began)
        self._clock.advance(self._cost.run + self._cost.token * tokens)
        return outputs


@dataclass(frozen=True)
class PacedBundle(ModelBundle):
    """A bundle whose engines keep virtual time."""

    clock: VirtualClock
    model: LatencyModel
    wall: dict[str, WallTimes] = field(default_factory=dict)
    """What the graphs have taken here, by name; no result depends on it."""

    @classmethod
    def of(cls, bundle: ModelBundle, clock: VirtualClock, model: LatencyModel) -> PacedBundle:
        """The same bundle on a virtual clock."""
        return cls(bundle.path, bundle.manifest, clock, model, states=bundle.states)

    def engine(self, graph: str, *, threads: int = 1, engine: str = ONNXRUNTIME) -> Engine:
        """Load one graph into an engine that is named, never chosen by a measurement.

        Raises:
            EngineError: the engine is not installed, or does not take the graph.
        """
        cost = self.model.graphs.get(Path(graph).stem, GraphCost())
        loaded = super().engine(graph, threads=threads, engine=engine)
        wall = self.wall.setdefault(Path(graph).stem, WallTimes())
        return PacedEngine(loaded, cost, self.clock, wall)
