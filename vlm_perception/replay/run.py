# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception replay`: from a recording to log, bag, key frames, video and report."""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.site_vocabulary import read_site_vocabulary
from vlm_perception.common.disk_space import DiskFullError
from vlm_perception.common.interrupt import INTERRUPTED, Interrupt
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.outputs.console import say
from vlm_perception.outputs.folder import UNFINISHED, ResultsFolder
from vlm_perception.replay import resume as checkpoints
from vlm_perception.replay.pipeline import EngineOptions, Pipeline
from vlm_perception.replay.prefetch import ahead
from vlm_perception.replay.recorded_schedule import Schedule, read_schedule
from vlm_perception.replay.recordings.clocks import STAMPS, choose_clock
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import (
    BagSource,
    CameraFrame,
    Source,
    Span,
    open_source,
)
from vlm_perception.replay.recordings.writer import METADATA, PARTS, OutputBag, parts
from vlm_perception.replay.report.replay_video import draw_replay
from vlm_perception.replay.report.report import write_report
from vlm_perception.replay.report.scene_log import FORMAT, VERSION, faults_in, line, sha256
from vlm_perception.replay.results import Results
from vlm_perception.replay.served import LIVE, served_by
from vlm_perception.replay.settings import default_parameters, load_settings
from vlm_perception.replay.telling import tell_losses, tell_notes
from vlm_perception.replay.virtual_time import LatencyModel, load_model

LOG, RUN, REPORT, VIDEO, KEYFRAMES = (
    "scene.jsonl",
    "run.json",
    "report.html",
    "overlay.mp4",
    "keyframes",
)
SERVED = "served.jsonl"
"""What a server has answered."""
RESULTS = (LOG, RUN, REPORT, VIDEO, METADATA, SERVED, *PARTS, f"{KEYFRAMES}/*.jpg")
CHECKPOINT_EVERY_S = 300.0
LOSSES = 3


@dataclass(frozen=True)
class ReplayOptions:
    """What `vlm-perception replay` is asked for."""

    recording: Path
    topic: str | None = None
    bundle: str | None = None
    vocabulary: Path | None = None
    """None: as in the parameter file."""
    out: Path | None = None
    """None: `out/replay/` and the recording's name."""
    span: Span = field(default_factory=Span)
    speed: float = 1.0
    engine: EngineOptions = field(default_factory=EngineOptions)
    parameters: Path | None = None
    """None: the file that ships with the package."""
    latency: Path | None = None
    """File of a latency model; None: the one that is built in."""
    time: str | None = None
    """STAMPS or RECORDING, the clock of ages; None: the former where the two are apart."""
    schedule: Path | None = None
    """A robot's bag: the frames that it worked on; None: those that the latency model gives."""
    served: str | None = None
    """LIVE or a record, for a language model that a server runs."""
    reach: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of language_reasoner for the way to that server, in place of the file's."""
    originals: str = "camera"
    """Topics of the recording that are copied: `camera`, `all` or `none`."""
    overlay: bool = True
    fresh: bool = False
    """Start over instead of continuing an interrupted run."""


def run_replay(options: ReplayOptions, console: Console) -> int:
    """Replay a recording.

    Returns:
        The exit code: 0, LOSSES when part of the recording or none of its images could be read,
        INTERRUPTED after Ctrl-C.

    Raises:
        VlmPerceptionError: recording, bundle or an option cannot be used.
        DiskFullError: the disk became full; the same command goes on from there.
        OSError: the results cannot be written.
    """
    cv2.setNumThreads(1)
    source = open_source(options.recording, options.topic)
    out = options.out or Path("out/replay") / Path(source.name).stem
    read = [options.recording]
    read += [options.schedule] if options.schedule else []
    read += [options.vocabulary] if options.vocabulary else []
    read += [Path(options.served)] if options.served not in (None, LIVE) else []
    folder = ResultsFolder(out, "replay", RESULTS, read)
    settings = load_settings(options.parameters or default_parameters())
    if options.vocabulary is not None:
        settings = replace(settings, vocabulary=str(options.vocabulary))
    source.images = settings.images
    model = load_model(options.latency) if options.latency else LatencyModel()
    bundle = ModelBundle.load(options.bundle or settings.bundle)
    schedule = read_schedule(options.schedule) if options.schedule else None
    clock, said = choose_clock(options.time, source.clock_offset_ns)
    source.notes += [said] if said else []
    source.notes += [f"of the schedule: {loss}" for loss in schedule.losses] if schedule else []
    with served_by(settings.served, options.served, folder.work / SERVED, options.reach) as served:
        pipeline = Pipeline(
            bundle, settings, model, options.engine, options.speed, schedule, clock, served
        )
        head = _head(options, source, model, pipeline, bundle, schedule)
        return _replay(options, source, pipeline, bundle, folder, head, console)


def _replay(
    options: ReplayOptions,
    source: Source,
    pipeline: Pipeline,
    bundle: ModelBundle,
    folder: ResultsFolder,
    head: dict[str, Any],
    console: Console,
) -> int:
    """Play the recording, write the results into place, and return the exit code."""
    out = folder.path
    tell_notes(source.notes, console)
    told = len(source.notes)
    with Interrupt() as interrupt, folder:
        run = _Run(options, source, pipeline, bundle, folder.work, head)
        _open(run, folder, out, console)
        _play(run, out, interrupt, console)
        if interrupt:
            say(console, f"interrupted: {_whole_up_to_here(out)}")
            return interrupt.exit_code(INTERRUPTED)
        facts = run.facts()
        say(console, _summary(facts))
        tell_notes(facts["notes"][told:], console)
        if facts["faults"]:
            _say_faults(folder.work / LOG, facts, console)
        _finish(folder, source, options, facts, console, interrupt)
    for name in (REPORT, LOG, *(part.name for part in parts(out)), VIDEO):
        if (out / name).exists():
            say(console, f"  {out / name}")
    tell_losses(source.losses, console)
    return LOSSES if source.losses or not facts["frames"] else 0


def _open(run: _Run, folder: ResultsFolder, out: Path, console: Console) -> None:
    """Begin, and report what became of an earlier interrupted run."""
    if folder.completed:
        say(console, f"note: the results of the previous run have only now been moved to {out}")
    frames = run.go_on() if folder.left_over else 0
    if frames:
        say(console, f"resuming after {frames} frames; --fresh starts over")
        return
    if folder.left_over:
        say(
            console,
            f"note: {folder.work} of an interrupted run was removed; the replay starts over",
        )
        folder.clear()
    run.begin()


def _play(run: _Run, out: Path, interrupt: Interrupt, console: Console) -> None:
    full = False
    try:
        run.play(interrupt, console)
    except DiskFullError as error:
        full = True
        raise DiskFullError(f"{error}: {_whole_up_to_here(out)}") from error
    finally:
        run.close(to_go_on=full or bool(interrupt))


def _whole_up_to_here(out: Path) -> str:
    return f"{out / UNFINISHED} is complete up to here; the same command resumes"


def _finish(
    folder: ResultsFolder,
    source: Source,
    options: ReplayOptions,
    facts: dict[str, Any],
    console: Console,
    interrupt: Interrupt,
) -> None:
    """Make video and report, and put all into its place."""
    work = folder.work
    (work / RUN).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if options.overlay and facts["frames"]:
        try:
            draw_replay(source, options.span, work / LOG, work / VIDEO, console, interrupt)
        except DiskFullError as error:
            say(console, f"{VIDEO} is left out: {error}")
    write_report(work, facts)
    folder.publish()


def _head(
    options: ReplayOptions,
    source: Source,
    model: LatencyModel,
    pipeline: Pipeline,
    bundle: ModelBundle,
    schedule: Schedule | None,
) -> dict[str, Any]:
    """First line of the log: all that decides on what follows, but the machine and its threads."""
    given = {"schedule": schedule.digest} if schedule is not None else {}
    given |= {"time": STAMPS} if pipeline.clock_of == STAMPS else {}
    if file := pipeline.settings.vocabulary:
        given["vocabulary"] = read_site_vocabulary(Path(file), bundle).digest
    return {
        "log": FORMAT,
        "version": VERSION,
        "bundle": bundle.manifest.name,
        "digest": bundle.digest,
        "engine": pipeline.encoder.engine_name,
        "source": source.name,
        "topic": source.topic,
        "start": options.span.start_s,
        "duration": options.span.duration_s,
        "speed": options.speed,
        "labels": list(pipeline.encoder.vocabulary.labels),
        "settings": pipeline.settings.described(),
        "latency_ms": model.model_dump(),
        **given,
    }


class _Run:
    """One run, or what is left of an interrupted one."""

    def __init__(
        self,
        options: ReplayOptions,
        source: Source,
        pipeline: Pipeline,
        bundle: ModelBundle,
        out: Path,
        head: dict[str, Any],
    ) -> None:
        self._options, self._source, self._pipeline = options, source, pipeline
        self._bundle, self._out, self._head = bundle, out, line(head)
        self._started = time.monotonic()
        self._resumed_at = self._taken = 0
        self._checkpoint_s = self._started

    def begin(self) -> None:
        """Start over in an empty folder."""
        (self._out / LOG).write_text(self._head, encoding="utf-8")
        self._write_into(None)
        self._results.describe(self._bundle, self._pipeline.encoder)

    def go_on(self) -> int:
        """Take up the interrupted run whose files are there.

        Returns:
            The number of frames that it had taken; 0 when it was another one, or left too little.
        """
        # Of a server and its record, a checkpoint knows nothing.
        fresh = self._options.fresh or self._pipeline.settings.served is not None
        found = None if fresh else checkpoints.read_checkpoint(self._out)
        if found is None or not self._fits(found):
            return 0
        if not checkpoints.restore(self._pipeline, found):
            return 0
        self._resumed_at = self._taken = found.frames
        with (self._out / LOG).open("r+b") as log:
            log.truncate(found.log_bytes)
        self._write_into(found.counts)
        return found.frames

    def play(self, interrupt: Interrupt, console: Console) -> None:
        """Feed every frame, and write down what comes of it."""
        source, options = self._source, self._options
        whole = not options.span.start_s and options.span.duration_s is None
        total = source.expected if whole else None
        with _progress(console) as progress:
            bar = progress.add_task("replaying", total=total, completed=self._taken, rate="")
            frames = source.frames(options.span, self._taken)
            for frame in ahead(self._timed(frames)):
                # Not within a frame: what follows would not fit the checkpoint.
                self._results.bag.check_room()
                self._results.take(frame, self._pipeline)
                self._taken += 1
                self._copy_others(frame)
                elapsed = time.monotonic() - self._started
                rate = (self._taken - self._resumed_at) / max(elapsed, 1e-9)
                progress.update(bar, completed=self._taken, rate=f"{rate:.1f} frames/s")
                if interrupt:
                    return
                self._checkpoint_when_due()
        if not self._taken:
            lost = f" ({'; '.join(source.losses)})" if source.losses else ""
            raise ReplayError(f"{options.recording} contains no image in this part{lost}")
        self._results.finish(self._pipeline, whole=not source.losses)

    def close(self, to_go_on: bool) -> None:
        """Close all files; save what is needed to resume, if that is possible."""
        self._results.close()
        if to_go_on:
            self._write_checkpoint()

    def facts(self) -> dict[str, Any]:
        """What is worth knowing of the run beside the canonical log."""
        seconds = time.monotonic() - self._started
        results, played = self._results, self._taken - self._resumed_at
        return {
            "recording": str(self._options.recording),
            "topic": self._source.topic,
            "type": self._source.type_name,
            "expected": self._source.expected,
            **results.counts,
            "notes": [
                *self._source.notes,
                *(f"not copied: {why}" for why in results.left_out),
                *(
                    f"{count} key frames were not analysed: {why}"
                    for why, count in self._pipeline.unanswered.items()
                ),
            ],
            "losses": list(self._source.losses),
            "log_sha256": sha256(self._out / LOG),
            "bundle": self._bundle.manifest.name,
            "digest": self._bundle.digest,
            "engine": self._pipeline.encoder.engine_name,
            "threads": self._options.engine.threads,
            "machine": f"{cpu_model()}, {cpu_count()} cores",
            "python": platform.python_version(),
            "wall_s": round(seconds, 3),
            "frames_per_s": round(played / seconds, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "wall_ms": {
                name: {
                    "p50": round(1e3 * each.percentile(50), 3),
                    "p95": round(1e3 * each.percentile(95), 3),
                    "share": round(each.total_s / seconds, 3),
                }
                for name, each in results.wall.items()
            },
        }

    def _timed(self, frames: Iterator[CameraFrame]) -> Generator[CameraFrame, None, None]:
        while True:
            began = time.monotonic()
            frame = next(frames, None)
            if frame is None:
                return
            self._results.wall["read and decode"].add(time.monotonic() - began)
            yield frame

    def _write_into(self, counts: dict[str, int] | None) -> None:
        log, keyframes = self._out / LOG, self._out / KEYFRAMES
        self._results = Results(log, keyframes, self._new_part(), counts)

    def _new_part(self) -> OutputBag:
        source, wanted = self._source, self._options.originals
        topics = []
        if wanted != "none" and isinstance(source, BagSource):
            topics = [each for each in source.bag.topics if each.name != source.topic]
            topics = topics if wanted == "all" else []
        part = OutputBag(self._out, topics, None if wanted == "none" else source.camera)
        self._others: Iterator[Any] = iter(())
        if topics and isinstance(source, BagSource):
            names = [each.name for each in topics]
            self._others = source.messages(names, self._options.span)
        self._other: Any = None
        return part

    def _copy_others(self, frame: CameraFrame) -> None:
        """Copy what was recorded up to this frame."""
        while True:
            self._other = self._other or next(self._others, None)
            if self._other is None or self._other.time_ns > frame.time_ns:
                return
            self._results.bag.write(self._other.topic, self._other.time_ns, self._other.data)
            self._other = None

    def _fits(self, found: checkpoints.Checkpoint) -> bool:
        """Whether the interrupted run was one of the same recording and options."""
        log = self._out / LOG
        if len(parts(self._out)) != found.parts:
            return False
        if not log.exists() or log.stat().st_size < found.log_bytes:
            return False
        with log.open(encoding="utf-8") as stream:
            return stream.readline() == self._head

    def _checkpoint_when_due(self) -> None:
        if time.monotonic() - self._checkpoint_s < CHECKPOINT_EVERY_S:
            return
        self._results.bag.close()
        self._write_checkpoint()
        self._results.bag = self._new_part()
        self._checkpoint_s = time.monotonic()

    def _write_checkpoint(self) -> None:
        self._results.flush()
        size, whole = (self._out / LOG).stat().st_size, len(parts(self._out))
        counts = self._results.counts
        checkpoints.take(self._pipeline, self._taken, size, whole, counts).write(self._out)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _summary(facts: dict[str, Any]) -> str:
    faults = f", {facts['faults']} not usable" if facts["faults"] else ""
    return (
        f"{facts['frames']} frames{faults}, {facts['reasonings']} reasonings, "
        f"{facts['keyframes']} key frames in {facts['wall_s']:.1f} s "
        f"({facts['frames_per_s']:g} frames/s)\nlog SHA-256 {facts['log_sha256']}"
    )


def _say_faults(log: Path, facts: dict[str, Any], console: Console) -> None:
    """Why images were not used, a line for each kind."""
    if not facts["frames"]:
        say(console, "none of the images could be used:")
    for kind, (count, text) in faults_in(log).items():
        said = f"not usable: {count} x {kind.replace('_', ' ')}; of the first one: {text}"
        say(console, said, "yellow")
