# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How many robots one server of a language model serves: drives through key-frame gates."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.files.clip import frame
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.perception.details import without_detail
from vlm_perception.perception.language.served.abilities import Abilities
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.served.completions import Request
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.served.errors import ServedError
from vlm_perception.perception.served.record import Recorded, Recording
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame

SIZE = (640, 360)
QUALITY = 95
DRIVES = 8
"""Different ones; more robots than that repeat them."""
TICK_HZ = 10
"""At the language node's own rate."""
SEED = 6_500_000
STAMP_NS = 1_700_000_000_000_000_000
FRESH_S = 1.0
"""Older reasonings are stale by scene_fusion's default."""
PROJECTED = (
    "Measured with this server as it is. One that batches requests continuously, as vLLM does, "
    "answers more at a time; how many more is in its own published figures."
)


@dataclass(frozen=True)
class Seen:
    """A frame of a drive as its robot's encoder has seen it."""

    embedding: Embedding
    """Without the image."""
    file: bytes
    """The image as JPEG."""


@dataclass(frozen=True)
class FleetFigures:
    """What a number of robots has got of the server."""

    robots: int
    analyses_hz: float
    """Of all robots together."""
    requests_hz: float
    tokens_hz: float
    """Pieces of answers; of most servers each is a token."""
    first_token_p50_ms: float
    age_p50_s: float
    age_p95_s: float
    """Of the newest reasoning, ten times a second, from each robot's first one on."""
    keyframe_share: float
    """Of the frames that were decided on."""
    failed: int
    """Analyses without an answer."""


@dataclass
class _Tally:
    """Counts what robots ask; for any thread."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    pieces: int = 0
    first: list[float] = field(default_factory=list)

    def add(self, request: Request, answer: Recorded) -> None:
        """Count a request and the pieces of its answer."""
        with self.lock:
            self.requests += 1
            self.pieces += len(answer.pieces)
            if answer.pieces:
                self.first.append(answer.pieces[0][0])

    def close(self) -> None:
        """Nothing."""


def run(settings: ServedSettings, *, bundle_name: str, robots: int, seconds: float) -> Report:
    """Play drives against the server, by 1, 2, 4 ... robots at once, `robots` at most.

    Args:
        settings: the server.
        bundle_name: the robots' dual encoder.
        robots: the most of them.
        seconds: length of the drives, and so of each measurement.

    Raises:
        VlmPerceptionError: the bundle cannot be used.
        ServedError: the server cannot be asked.
        EndpointError: its address cannot be used.
    """
    bundle = ModelBundle.load(bundle_name)
    connection = Connection(settings.checked_endpoint())
    try:
        abilities = ServedModel(connection, settings).find_abilities()
        server = connection.check(settings.served_deadline).result()
    finally:
        connection.close()
    counts = sorted({min(robots, 2**power) for power in range(robots.bit_length() + 1)})
    drives = _drives(bundle, min(robots, DRIVES), seconds)
    drives = [drives[robot % len(drives)] for robot in range(robots)]
    figures = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("robots ask the server", total=len(counts))
        for count in counts:
            figures.append(_play(bundle, settings, abilities, drives[:count], seconds))
            progress.advance(bar)
    title = f"{server.model} on {server.server or settings.endpoint}"
    described = {"model": server.model, "server": server.server, "version": server.version}
    stale = next((each.robots for each in figures if each.age_p95_s > FRESH_S), None)
    return Report(
        [_table(figures, title), *_said(figures, stale)],
        {
            "valid": None,
            **described,
            "seconds": seconds,
            "tick_hz": TICK_HZ,
            "abilities": asdict(abilities),
            "fleet": [asdict(each) for each in figures],
            "stale_from_robots": stale,
        },
    )


def _drives(bundle: ModelBundle, robots: int, seconds: float) -> list[list[Seen]]:
    """A drive for each robot, encoded beforehand: here is measured what comes after."""
    width, height = SIZE
    ticks = round(seconds * TICK_HZ)
    drives: list[list[Seen]] = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("rendering and encoding drives", total=robots * ticks)
        for robot in range(robots):
            encoder = VisionEncoder(bundle, run_id=f"robot {robot}")
            drive = []
            for tick in range(ticks):
                pixels = frame(
                    tick,
                    width=width,
                    height=height,
                    fps=TICK_HZ,
                    seconds=seconds,
                    seed=SEED + robot,
                )
                seen = encoder.encode(Frame(pixels, STAMP_NS + round(tick * 1e9 / TICK_HZ)), tick)
                file = simplejpeg.encode_jpeg(
                    np.ascontiguousarray(pixels), quality=QUALITY, colorspace="RGB"
                )
                drive.append(Seen(without_detail(seen), file))
                progress.advance(bar)
            drives.append(drive)
    return drives


def _play(
    bundle: ModelBundle,
    settings: ServedSettings,
    abilities: Abilities,
    drives: Sequence[list[Seen]],
    seconds: float,
) -> FleetFigures:
    tally = _Tally()
    robots = [_Robot(bundle, settings, abilities, drive, tally) for drive in drives]
    began = time.monotonic()
    for robot in robots:
        robot.start(began)
    for robot in robots:
        robot.join()
    lasted = time.monotonic() - began
    ages = np.concatenate([robot.ages(seconds) for robot in robots])
    decided = sum(robot.decided for robot in robots)
    analyses = sum(robot.analyses for robot in robots)
    return FleetFigures(
        robots=len(robots),
        analyses_hz=round(analyses / lasted, 3),
        requests_hz=round(tally.requests / lasted, 2),
        tokens_hz=round(tally.pieces / lasted, 1),
        first_token_p50_ms=round(1e3 * float(np.median(tally.first or [np.nan])), 1),
        age_p50_s=round(float(np.percentile(ages, 50)), 3),
        age_p95_s=round(float(np.percentile(ages, 95)), 3),
        keyframe_share=round((analyses + sum(each.failed for each in robots)) / decided, 3),
        failed=sum(robot.failed for robot in robots),
    )


class _Robot:
    """Takes the newest frame of its drive when it is free, as a language node does."""

    def __init__(
        self,
        bundle: ModelBundle,
        settings: ServedSettings,
        abilities: Abilities,
        drive: list[Seen],
        tally: _Tally,
    ) -> None:
        link = Recording(Connection(settings.checked_endpoint()), tally, time.monotonic)
        self._served = ServedModel(link, settings, abilities=abilities)
        self._reasoner = Reasoner(LanguageService(bundle, language=self._served))
        self._drive = drive
        self._thread = threading.Thread(target=self._drive_on)
        self._began = 0.0
        self._error: Exception | None = None
        self._finished: list[tuple[float, float]] = []
        """When a reasoning came, and when its frame was taken, in seconds of the drive."""
        self.decided = self.analyses = self.failed = 0

    def start(self, began: float) -> None:
        """Set out; all at the same time, as after a power failure."""
        self._began = began
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the drive.

        Raises:
            Exception: what ended it before.
        """
        self._thread.join()
        self._served.close()
        if self._error is not None:
            raise self._error

    def ages(self, seconds: float) -> NDArray[np.float64]:
        """Age of the newest reasoning at each tick; as old as the drive where none came in time."""
        if not self._finished or self._finished[0][0] >= seconds:
            return np.array([seconds])
        came, taken = np.array(self._finished).T
        ticks = np.arange(came[0], seconds, 1.0 / TICK_HZ)
        newest = np.searchsorted(came, ticks, side="right") - 1
        return np.asarray(ticks - taken[np.maximum(newest, 0)], np.float64)

    def _drive_on(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._error = error

    def _run(self) -> None:
        last = -1
        while True:
            elapsed = time.monotonic() - self._began
            tick = int(elapsed * TICK_HZ)
            if tick >= len(self._drive):
                return
            if tick == last:
                time.sleep((tick + 1) / TICK_HZ - elapsed)
                continue
            last = tick
            self._reason(tick)

    def _reason(self, tick: int) -> None:
        seen = self._drive[tick]
        decided = self._reasoner.decide(seen.embedding)
        self.decided += 1
        embedding = seen.embedding
        if decided.is_keyframe:
            pixels = simplejpeg.decode_jpeg(seen.file, colorspace="RGB")
            embedding = replace(embedding, image=pixels)
        try:
            self._reasoner.conclude(decided, embedding, 0)
        except ServedError:
            self.failed += 1
            return
        self.analyses += decided.is_keyframe
        self._finished.append((time.monotonic() - self._began, tick / TICK_HZ))


def _table(figures: Sequence[FleetFigures], title: str) -> Table:
    table = figure_table(
        title,
        "robots",
        "analyses\nper s",
        "requests\nper s",
        "tokens\nper s",
        "first token\np50, ms",
        "age, s\np50",
        "\np95",
        "key\nframes",
        "failed",
        words=0,
    )
    for each in figures:
        table.add_row(
            str(each.robots),
            f"{each.analyses_hz:.2f}",
            f"{each.requests_hz:.1f}",
            f"{each.tokens_hz:.0f}",
            f"{each.first_token_p50_ms:.0f}",
            f"{each.age_p50_s:.2f}",
            f"{each.age_p95_s:.2f}",
            f"{100 * each.keyframe_share:.0f} %",
            str(each.failed),
        )
    return table


def _said(figures: Sequence[FleetFigures], stale: int | None) -> list[str]:
    one, best = figures[0], max(each.analyses_hz for each in figures)
    fresh = f"Reasonings of {figures[-1].robots} robots are fresh: p95 of their age is below 1 s."
    old = f"With {stale} robots, reasonings are stale: p95 of their age is over 1 s."
    saved = (
        f"A robot alone asks {one.analyses_hz:.1f} times a second; without the gate it would ask "
        f"{TICK_HZ} times. The server answers {best:.1f} analyses a second at most: plan for two "
        "thirds of the robots that this makes."
    )
    return [fresh if stale is None else old, saved, PROJECTED]
