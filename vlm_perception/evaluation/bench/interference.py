# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a busy language node costs the encoder, and how soon it answers, on the running graph."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.interrupt import Interrupt
from vlm_perception.evaluation.bench.graph import START_WITHIN_S, check_running, wait_until_running
from vlm_perception.evaluation.bench.graph_figures import BenchError
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.launch import Graph, GraphOptions
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.process_usage import usage_of
from vlm_perception.rosgraph.processes import NodeProcesses
from vlm_perception.rosgraph.service_client import ServiceCaller
from vlm_perception.rosgraph.source import open_source
from vlm_perception.rosgraph.topic_meter import percentiles
from vlm_perception.rosgraph.topics import EMBEDDING, MEASURED, REASONING, Topic

SETTLE_S = 1.0
"""Of each phase, not measured: the node has just been switched over."""
PHASE_S = 8.0
ANALYSES, PATIENCE = 4, 12
"""Of a phase, as if the language node were alone: a model that takes long gets longer phases; and
what is waited for."""
FEWEST_ANALYSES = 2
"""Of a busy phase, which is prolonged for them: beside the encoder they take longer than alone."""
LEAST_FRAMES = 20
"""Of each phase; a percentile of fewer is meaningless."""
QUESTIONS, QUESTION_EVERY_S = 40, 0.15
ASKING_S = 60.0
"""Seconds after which no further question is asked."""
ASKED = QuestionSpec(name="rain", question="is it raining", choices=("yes", "no"))
"""Where the bundle has no question of its own."""
NODE = "language_reasoner"
POLL_S = 0.2


@dataclass(frozen=True)
class Pair:
    """The encoder's p95 without and with the language node at work, one after the other."""

    idle_ms: float
    busy_ms: float

    @property
    def ratio(self) -> float:
        """Busy against idle; 1: no difference."""
        return self.busy_ms / self.idle_ms


@dataclass(frozen=True)
class Phase:
    """What was seen while the language node was idle, or busy."""

    seconds: float
    encoder_ms: Sequence[float]
    """For each frame the sum of the encoder's stages, as given in its embedding."""
    reasonings: int
    analyses_ms: Sequence[float]
    """Of each full analysis."""

    @property
    def encoder_p95_ms(self) -> float:
        """Raises BenchError when there were hardly any frames."""
        if len(self.encoder_ms) < LEAST_FRAMES:
            raise BenchError(
                f"only {len(self.encoder_ms)} frames were encoded in {self.seconds:.0f} s; the "
                "machine is too busy, or a phase too short"
            )
        return float(np.percentile(np.asarray(self.encoder_ms), 95))


@dataclass(frozen=True)
class Interference:
    """Both nodes on one machine; busy means a full analysis on every tick."""

    pairs: tuple[Pair, ...]
    encoder_idle_p50_ms: float
    encoder_busy_p50_ms: float
    encoder_idle_hz: float
    encoder_hz: float
    """Frames encoded while busy, as the next two."""
    language_hz: float
    analyses_hz: float
    analysis_ms: float
    """Median full analysis in the graph."""
    ask_ms: Mapping[str, float]
    """From a client's typed question to its answer while busy: p50, p95, p99."""
    rss_mb: Mapping[str, float]
    """Resident memory of each process at the end of the last busy phase."""

    @property
    def ratio(self) -> float:
        """Median of the pairs."""
        return median(pair.ratio for pair in self.pairs)


class StageTimes:
    """Collects the encoder's own times from its messages."""

    def __init__(self, decode: Callable[[bytes], Mapping[str, float]]) -> None:
        """Start empty.

        Args:
            decode: stages of a serialized embedding, in seconds.
        """
        self._decode = decode
        self._times: list[tuple[int, float]] = []

    def add(self, topic: Topic, received_ns: int, data: bytes) -> None:
        """Take a message in; those of other topics are left aside."""
        if topic == EMBEDDING:
            stages = self._decode(data)
            # `total` is the sum of all stages but `convert`, which comes before it.
            busy_s = stages.get("total", 0.0) + stages.get("convert", 0.0)
            self._times.append((received_ns, 1e3 * busy_s))

    def between(self, start_ns: int, end_ns: int) -> list[float]:
        """Milliseconds of the frames that came after the start and not after the end."""
        return [milliseconds for at, milliseconds in tuple(self._times) if start_ns < at <= end_ns]


def measure_interference(
    bundle: ModelBundle,
    *,
    pairs: int,
    seconds: float | None,
    analysis_s: float,
    encoder_threads: int,
    video: str | None,
    console: Console,
) -> Interference | None:
    """Run the four processes of the demo and switch the language node off and on in turn.

    Off: deactivated by its lifecycle, so that it does not even receive embeddings. On: a full
    analysis on every tick.

    Args:
        bundle: the model.
        pairs: how many times off and on.
        seconds: length of each phase, without the second in which it settles; None: long enough for
            several analyses.
        analysis_s: what a full analysis takes on this machine alone.
        encoder_threads: of the encoder's network.
        video: what to play in a loop; the road world when None.
        console: where the progress is shown.

    Returns:
        What was measured, or nothing when it was interrupted.

    Raises:
        VlmPerceptionError: the video cannot be played.
        GraphEnvironmentError: ROS or the built messages are missing.
        BenchError: a node ended, the graph did not come up, or frames are missing.
        CallError: the language node does not answer.
    """
    require_ros()
    source = open_source(video)
    with Interrupt() as interrupt, own_graph(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(NodeProcesses(folder))
        times = StageTimes(_stages)
        observer = stack.enter_context(Observer(MEASURED, times.add))
        caller = stack.enter_context(ServiceCaller())
        options = GraphOptions(
            source,
            str(bundle.path.resolve()),
            loop=True,
            force_keyframes=True,
            encoder_threads=encoder_threads,
        )
        phase_s = seconds or max(PHASE_S, ANALYSES * analysis_s)
        # Beside the encoder, and on a machine that others use, an analysis takes many times longer.
        patience_s = START_WITHIN_S + PATIENCE * analysis_s
        run = _Run(processes, observer, caller, times, interrupt, phase_s, patience_s)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("starting four nodes", total=2 * pairs + 1)
            graph = Graph(options, processes, observer)
            wait_until_running(graph, processes, [observer], interrupt, patience_s)
            idle: list[Phase] = []
            busy: list[Phase] = []
            for _ in range(pairs):
                progress.update(task, description="encoder alone")
                idle.append(run.phase("deactivate"))
                progress.update(task, advance=1, description="every tick analysed")
                busy.append(run.phase("activate"))
                progress.update(task, advance=1)
            rss_mb = {name: usage_of(pid).rss_mb for name, pid in processes.pids.items()}
            progress.update(task, description="asking")
            asked = [] if interrupt else run.ask(bundle)
    return None if interrupt else summarise(idle, busy, asked, rss_mb)


def summarise(
    idle: Sequence[Phase],
    busy: Sequence[Phase],
    asked_ms: Sequence[float],
    rss_mb: Mapping[str, float],
) -> Interference:
    """Figures of phases that followed each other in pairs.

    Raises:
        BenchError: a phase had hardly any frames, or no analysis was made.
    """
    pairs = tuple(
        Pair(quiet.encoder_p95_ms, loud.encoder_p95_ms)
        for quiet, loud in zip(idle, busy, strict=True)
    )
    analyses = [each for phase in busy for each in phase.analyses_ms]
    if not analyses:
        raise BenchError(
            f"{NODE} made no full analysis while it was active: give it more time with --seconds, "
            "or leave it more of the cores with --encoder-threads or a slower --video"
        )
    seconds, idle_s = (sum(phase.seconds for phase in phases) for phases in (busy, idle))
    return Interference(
        pairs=pairs,
        encoder_idle_p50_ms=median(each for phase in idle for each in phase.encoder_ms),
        encoder_busy_p50_ms=median(each for phase in busy for each in phase.encoder_ms),
        encoder_idle_hz=sum(len(phase.encoder_ms) for phase in idle) / idle_s,
        encoder_hz=sum(len(phase.encoder_ms) for phase in busy) / seconds,
        language_hz=sum(phase.reasonings for phase in busy) / seconds,
        analyses_hz=len(analyses) / seconds,
        analysis_ms=median(analyses),
        ask_ms=percentiles(asked_ms) or {},
        rss_mb=rss_mb,
    )


@dataclass(frozen=True)
class _Run:
    """The running graph, and what is done with it."""

    processes: NodeProcesses
    observer: Observer
    caller: ServiceCaller
    times: StageTimes
    interrupt: Interrupt
    seconds: float
    patience_s: float
    """How long an answer of the language node may take."""

    def phase(self, transition: str) -> Phase:
        """Switch the language node over, wait a moment and watch."""
        self._switch(transition)
        self._wait(SETTLE_S)
        start_ns, start = time.time_ns(), time.monotonic()
        self._wait(self.seconds)
        if transition == "activate":
            self._wait(self.patience_s, lambda: len(self._analyses(start_ns)) >= FEWEST_ANALYSES)
        end_ns, elapsed = time.time_ns(), time.monotonic() - start
        return Phase(
            seconds=elapsed,
            encoder_ms=self.times.between(start_ns, end_ns),
            reasonings=len(self.observer.meters[REASONING].between(start_ns, end_ns)),
            analyses_ms=self._analyses(start_ns, end_ns),
        )

    def _analyses(self, start_ns: int, end_ns: int | None = None) -> list[float]:
        """Milliseconds of the full analyses that came after the start."""
        return [
            each.milliseconds
            for each in tuple(self.observer.analyses)
            if each.is_keyframe and start_ns < each.received_ns <= (end_ns or each.received_ns)
        ]

    def ask(self, bundle: ModelBundle) -> list[float]:
        """Milliseconds that typed questions take from a client and back, of those answered."""
        from vlm_perception.srv import Ask  # noqa: PLC0415

        question, *_ = (*bundle.manifest.questions, ASKED)
        request = Ask.Request(
            question=question.question, choices=list(question.choices), timeout=self.patience_s
        )
        result: list[float] = []
        refusal = ""
        end = time.monotonic() + ASKING_S
        while not self.interrupt and len(result) < QUESTIONS and time.monotonic() < end:
            began = time.monotonic()
            answer = self.caller.call(Ask, f"{NODE}/ask", request, self.patience_s)
            if answer.success:
                result.append(1e3 * (time.monotonic() - began))
            refusal = answer.message
            self._wait(QUESTION_EVERY_S)
        if not (result or self.interrupt):
            raise BenchError(f"{NODE} did not answer: {refusal}")
        return result

    def _switch(self, transition: str) -> None:
        from lifecycle_msgs.srv import ChangeState  # noqa: PLC0415

        request = ChangeState.Request()
        request.transition.label = transition
        name, end = f"{NODE}/change_state", time.monotonic() + self.patience_s
        while not (self.interrupt or self.caller.call(ChangeState, name, request).success):
            # It stops only after the frame in hand.
            if time.monotonic() > end:
                raise BenchError(f"{NODE} refused to {transition}")
            self._wait(POLL_S)

    def _wait(self, seconds: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while not (self.interrupt or is_enough()) and (left := end - time.monotonic()) > 0:
            check_running(self.processes, self.observer)
            self.interrupt.sleep(min(POLL_S, left))


def _stages(data: bytes) -> Mapping[str, float]:
    from rclpy.serialization import deserialize_message  # noqa: PLC0415

    from vlm_perception.msg import VisionEmbedding  # noqa: PLC0415

    message = deserialize_message(data, VisionEmbedding)
    return {stage.name: stage.duration for stage in message.stages}
