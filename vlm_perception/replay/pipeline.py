# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The three nodes' work on virtual time: the same objects, the same rules of who waits for whom.

Each frame is encoded. The language path takes the newest embedding when it is free and its tick is
due, as its node does; how long it is busy is given by the latency model. Fusion makes a scene of
each embedding with the reasonings that would have arrived by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.details import Details, Kind
from vlm_perception.perception.fusion.scene import SceneFusion
from vlm_perception.perception.fusion.stamp_order import Order, StampOrder
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.reasoning.degradation import Degradation
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.questions import load_questions
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.served.errors import LATE, ServedError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.replay.recorded_schedule import Schedule
from vlm_perception.replay.recordings.clocks import RECORDING, STAMPS
from vlm_perception.replay.settings import PipelineSettings
from vlm_perception.replay.virtual_time import LatencyModel, PacedBundle, VirtualClock
from vlm_perception.types import Embedding, Frame, FrameDetail, Reasoning, Scene

RUN_ID = "replay"
SET_BACK_S = 1.0
"""From one image to the next; by less, files mix up what was recorded by several threads."""


@dataclass(frozen=True)
class Tick:
    """The language path's result, and its virtual time, in nanoseconds of the recording."""

    reasoning: Reasoning
    sequence: int
    ended_ns: int
    seconds: float
    """From the arrival of the embedding to the reasoning, on the robot's clock."""
    began_ns: int
    detail: FrameDetail | None
    """What the language model has read of the frame; None where it has read nothing."""


@dataclass(frozen=True)
class Outcome:
    """What came of a frame."""

    embedding: Embedding | None
    """None when the frame came out of order and was skipped."""
    scene: Scene | None
    ticks: tuple[Tick, ...]
    """Reasonings that were finished before this scene was made."""
    order: Order
    embedded_ns: int
    """When embedding and scene were there."""
    seconds: float = 0.0
    """From the arrival of the frame to its embedding, on the robot's clock."""


@dataclass(frozen=True)
class EngineOptions:
    """What the networks run in; it is never chosen by a measurement."""

    name: str = "onnxruntime"
    threads: int = 1


class Pipeline:
    """Encoder, reasoner and fusion, fed frame by frame."""

    def __init__(
        self,
        bundle: ModelBundle,
        settings: PipelineSettings,
        model: LatencyModel,
        engine: EngineOptions,
        speed: float = 1.0,
        schedule: Schedule | None = None,
        clock: str = RECORDING,
        served: Callable[[VirtualClock], ServedModel] | None = None,
    ) -> None:
        """Load the networks.

        Args:
            bundle: the model.
            settings: the nodes' parameters.
            model: how long the robot takes.
            engine: what the networks run in here.
            speed: seconds of the recording that pass in one of the robot's, as with
                `ros2 bag play --rate`.
            schedule: the frames that a robot worked on; None: according to the latency model.
            clock: RECORDING, on whose times the stamps' ages are counted, or STAMPS: each image
                arrives at the time of its stamp.
            served: makes the language model that a server runs, on the robot's clock; None: the
                bundle's own.

        Raises:
            BundleError: the bundle lacks a file, or an engine gives other outputs than stored.
            QuestionsError: the file of questions cannot be used.
            SiteVocabularyError: the file of the vocabulary cannot be used.
        """
        self.clock, self._model, self._speed = VirtualClock(), model, speed
        self._schedule = schedule
        self.clock_of = clock
        paced = PacedBundle.of(bundle, self.clock, model)
        self._wall = paced.wall
        self.encoder = VisionEncoder(
            paced,
            threads=engine.threads,
            run_id=RUN_ID,
            engine=engine.name,
            temporal=settings.temporal,
            clock=self.clock,
            vocabulary=Path(settings.vocabulary) if settings.vocabulary else None,
        )
        self.encoder.warm_up()
        self._details = Details(bundle.manifest, Kind.MODEL if served is None else Kind.IMAGE)
        self.unanswered: dict[str, int] = {}
        """Key frames that the language model was asked about in vain, by the reason."""
        self.reasoner: Reasoner | None = None
        if bundle.manifest.language is not None or served is not None:
            file = settings.questions
            service = LanguageService(
                paced,
                settings.reasoner,
                threads=engine.threads,
                questions=load_questions(Path(file)) if file else None,
                clock=self.clock,
                engine=engine.name,
                language=served(self.clock) if served is not None else None,
            )
            service.warm_up()
            settings = _with_caption_limit(settings, service, schedule)
            self.reasoner = Reasoner(service, run_id=RUN_ID)
        self.settings = settings
        """The nodes' parameters, with what an automatic one stands for."""
        self.clock.now = 0.0
        self._degradation = Degradation(self.clock)
        self._fusion = SceneFusion(settings.fusion, RUN_ID, self.clock)
        self._orders = {name: StampOrder() for name in ("encoder", "reasoner", "fusion")}
        self._origin_ns: int | None = None
        self._arrived_s = 0.0
        self._sequence = self._reasonings = self._known_ns = 0
        self._waiting: tuple[Embedding, float] | None = None
        self._due_s = self._free_s = 0.0
        self._finished: deque[tuple[Tick, float]] = deque()
        self._scenes: deque[tuple[tuple[str, ...], float]] = deque()
        """Conflicts of the scenes that are on their way to the language path."""

    def takes(self, stamp_ns: int) -> bool:
        """Whether a frame is encoded; only a robot's schedule leaves any out."""
        return self._schedule is None or stamp_ns in self._schedule.encoded

    def feed(self, frame: Frame, time_ns: int) -> Outcome:
        """Take the next frame.

        Args:
            frame: the image.
            time_ns: when it arrives.

        Raises:
            FrameError: the frame holds no RGB image.
        """
        arrival = self._arrival(time_ns)
        order = self._orders["encoder"].judge(frame.stamp_ns).order
        if order is Order.LATE:
            return Outcome(None, None, (), order, time_ns)
        self.clock.now = arrival
        self.clock.advance(self._model.frame)
        embedding = self.encoder.encode(frame, self._sequence)
        self._sequence += 1
        embedded = self.clock.now + self._model.transport * 1e-3
        ticks = tuple(self._ticks_until(embedded))
        now_ns = self._recorded_ns(embedded)
        if self.clock_of == STAMPS and frame.stamp_ns:
            now_ns += frame.stamp_ns - self._recorded_ns(arrival)
        scene = self._fuse(embedding, embedded, now_ns, embedded - arrival)
        # A tick that begins with this embedding ends after its scene.
        self._waiting = (embedding, embedded)
        return Outcome(
            embedding, scene, ticks, order, self._recorded_ns(embedded), embedded - arrival
        )

    def finish(self) -> tuple[Tick, ...]:
        """Reasonings that are still due when the recording has ended."""
        return tuple(self._ticks_until(float("inf")))

    def measured_ms(self) -> dict[str, dict[str, float]]:
        """What the graphs have taken on this machine, as a latency model has it."""
        return {name: wall.cost_ms() for name, wall in self._wall.items() if wall.runs}

    def _arrival(self, time_ns: int) -> float:
        """Time on the robot's clock; it never runs backwards, whatever was recorded.

        Where the recording's clock was set back, or an earlier recording follows, it runs on.
        """
        if self._origin_ns is None:
            self._origin_ns = time_ns
        elapsed = (time_ns - self._origin_ns) * 1e-9 / self._speed
        if elapsed < self._arrived_s - SET_BACK_S / self._speed:
            self._origin_ns = time_ns - round(self._arrived_s * self._speed * 1e9)
        self._arrived_s = max(self._arrived_s, elapsed)
        return self._arrived_s

    def _recorded_ns(self, seconds: float) -> int:
        """The recording's time at a moment of the robot's clock."""
        return (self._origin_ns or 0) + round(seconds * self._speed * 1e9)

    def _ticks_until(self, limit_s: float) -> Iterator[Tick]:
        """Reason on what waits, as long as the tick begins before a moment."""
        if self._schedule is not None:
            yield from self._scheduled_tick(self._schedule)
            return
        while self._waiting is not None:
            embedding, came_s = self._waiting
            begin = max(self._due_s, self._free_s, came_s)
            if begin >= limit_s:
                return
            self._waiting = None
            # As in the node's worker: counting from the due time keeps the mean rate.
            interval = 1.0 / (self.settings.rate_hz * self._degradation.effort.rate)
            due = self._due_s + interval
            self._due_s = due if due > begin else begin + interval
            tick = self._reason(embedding, begin, came_s, self._degradation.level)
            if tick is not None:
                yield tick

    def _scheduled_tick(self, schedule: Schedule) -> Iterator[Tick]:
        """Reason on what waits, if the robot did."""
        if self._waiting is None:
            return
        embedding, came_s = self._waiting
        self._waiting = None
        scheduled = schedule.ticks.get(embedding.stamp_ns)
        if scheduled is None:
            return
        self._scenes.clear()
        if scheduled.doubted and self.reasoner is not None:
            self.reasoner.note_conflicts(())
            self.reasoner.note_conflicts(("as the robot saw one",))
        tick = self._reason(embedding, came_s, came_s, scheduled.level)
        if tick is not None:
            yield tick

    def _reason(
        self, embedding: Embedding, begin_s: float, came_s: float, level: int
    ) -> Tick | None:
        order = self._orders["reasoner"].judge(embedding.stamp_ns).order
        if self.reasoner is None or order is Order.LATE:
            return None
        if order is Order.JUMPED:
            self.reasoner.reset()
        while self._scenes and self._scenes[0][1] <= begin_s:
            self.reasoner.note_conflicts(self._scenes.popleft()[0])
        self.clock.now = begin_s
        decided, detail = self.reasoner.decide(embedding), None
        if decided.is_keyframe:
            embedding = self._details.ready(embedding)
            # A server is sent the image itself, which the recording holds anyway.
            detail = self._details.of(embedding) if self.settings.served is None else None
        try:
            reasoning = self.reasoner.conclude(decided, embedding, level)
        except ServedError as error:
            self.unanswered[str(error)] = self.unanswered.get(str(error), 0) + 1
            self._free_s = self.clock.now
            if error.fault in LATE:
                self._degradation.record(self._free_s - begin_s, 1.0 / self.settings.rate_hz)
            return None
        self._free_s = self.clock.now
        self._degradation.record(self._free_s - begin_s, 1.0 / self.settings.rate_hz)
        arrives = self._free_s + self._model.transport * 1e-3
        sequence, self._reasonings = self._reasonings, self._reasonings + 1
        tick = Tick(
            reasoning,
            sequence,
            ended_ns=self._recorded_ns(self._free_s),
            seconds=self._free_s - came_s,
            began_ns=self._recorded_ns(begin_s),
            detail=detail,
        )
        self._finished.append((tick, arrives))
        return tick

    def _fuse(
        self, embedding: Embedding, now_s: float, now_ns: int, spent_s: float
    ) -> Scene | None:
        order = self._orders["fusion"].judge(embedding.stamp_ns).order
        if order is Order.LATE:
            return None
        if order is Order.JUMPED:
            self._finished.clear()
            self._fusion.reset()
        while self._finished and self._has_come(*self._finished[0], embedding.stamp_ns, now_s):
            tick, arrived = self._finished.popleft()
            self._fusion.add_reasoning(tick.reasoning, min(arrived, now_s))
        self.clock.now = now_s
        scene = self._fusion.fuse(embedding, now_s, now_ns, spent_s)
        if self.reasoner is not None:
            self._scenes.append((scene.conflicts, now_s + self._model.transport * 1e-3))
        return scene

    def _has_come(self, tick: Tick, arrives_s: float, scene_ns: int, now_s: float) -> bool:
        """Whether a reasoning is there when a scene is made."""
        if self._schedule is None:
            return arrives_s <= now_s
        # A scene that the robot left out contains nothing new.
        self._known_ns = self._schedule.known.get(scene_ns, self._known_ns)
        return tick.reasoning.stamp_ns <= self._known_ns


def _with_caption_limit(
    settings: PipelineSettings, service: LanguageService, schedule: Schedule | None
) -> PipelineSettings:
    """The longest time for a caption: as given, else as the robot's, else by the latency model."""
    if settings.reasoner.max_caption_s:
        return settings
    # What a server would be measured to take depends on its day.
    if settings.served is None:
        service.measure()
    if schedule is not None and schedule.max_caption_s:
        service.max_caption_s = schedule.max_caption_s
    reasoner = replace(settings.reasoner, max_caption_s=service.max_caption_s)
    return replace(settings, reasoner=reasoner)
