# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The demo from start to end: check, start, watch, record, stop, draw."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle import ModelBundle
from vlm_perception.demo.environment import own_graph, require_ros
from vlm_perception.demo.graph import DEFAULT_BUNDLE, Graph, GraphOptions
from vlm_perception.demo.interrupt import Interrupt
from vlm_perception.demo.observer import Observer
from vlm_perception.demo.overlay_video import Written, write_overlay
from vlm_perception.demo.panel import Panel, node_rows
from vlm_perception.demo.processes import NodeProcesses
from vlm_perception.demo.recorder import Recorder
from vlm_perception.demo.shared_memory import shortage
from vlm_perception.demo.source import ROADWORLD_SECONDS, InputError, Source, open_source
from vlm_perception.demo.topics import IMAGE, RECORDED, SCENE

FIRST_SCENE_WITHIN_S = 60.0
SILENCE_AT_END_S = 1.5
POLL_S = 0.1
STOPPED_WITHIN_S = 1.75
"""After Ctrl-C; two seconds are promised."""
FAILED = 1
BAD_INPUT = 2
"""With which video_source ends when what it plays turns out to be unreadable."""


@dataclass(frozen=True)
class DemoOptions:
    """What `vlm-perception demo` is asked for."""

    video: str | None = None
    seconds: float | None = None
    out: Path = Path("out/demo")
    bundle: str = DEFAULT_BUNDLE


class NodeFailedError(RuntimeError):
    """A node ended early or no scene came; the message holds its last words."""


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo.

    Returns:
        The exit code: 0 at the end of the video or after Ctrl-C, 1 when a node failed.

    Raises:
        ValueError: Video or bundle cannot be used; nothing was started.
        GraphEnvironmentError: ROS or the built messages are missing.
    """
    require_ros()
    bundle = str(ModelBundle.load(options.bundle).path.resolve())
    source = open_source(options.video)
    if warning := shortage():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    options.out.mkdir(parents=True, exist_ok=True)
    bag, video = options.out / "scene.mcap", options.out / "overlay.mp4"
    with Interrupt() as interrupt, own_graph():
        recorder = Recorder(bag, RECORDED)
        observer = Observer(RECORDED, recorder.put)
        failure = None
        try:
            with ExitStack() as stack:
                processes = stack.enter_context(NodeProcesses(options.out / "nodes"))
                stack.enter_context(recorder)
                stack.enter_context(observer)
                panel = stack.enter_context(Panel(observer, source.description, console))
                graph = Graph(_graph_options(options, source, bundle), processes, observer)
                watch = _Watch(source, options.seconds, processes, observer, recorder)
                while not interrupt and not watch.ended():
                    graph.play_when_ready()
                    panel.update()
                    interrupt.sleep(POLL_S)
                processes.stop()
        except NodeFailedError as error:
            failure = error
        _summarise(observer, console)
        if recorder.messages:
            console.print(f"bag: {bag}  ({recorder.messages} messages)", soft_wrap=True)
            _draw(bag, video, source, interrupt, console)
    if failure is not None:
        console.print(f"error: {failure}", style="red", soft_wrap=True, markup=False)
        return FAILED
    return interrupt.exit_code()


def _graph_options(options: DemoOptions, source: Source, bundle: str) -> GraphOptions:
    # The road world is a clip of fixed length: whoever wants more sees it again.
    longer = options.video is None and (options.seconds or 0) > ROADWORLD_SECONDS
    return GraphOptions(source, bundle, loop=longer)


class _Watch:
    """Decides when the demo is over."""

    def __init__(
        self,
        source: Source,
        seconds: float | None,
        processes: NodeProcesses,
        observer: Observer,
        recorder: Recorder,
    ) -> None:
        self._source = source
        self._limit = seconds
        self._processes = processes
        self._observer = observer
        self._recorder = recorder
        self._started = time.monotonic()
        self._first_image: float | None = None

    def ended(self) -> bool:
        """Whether the source or the time is over.

        Raises:
            InputError: The source became unreadable on the way.
            NodeFailedError: A node ended that should not have, or there is still no scene.
        """
        self._observer.check()
        self._recorder.check()
        now = time.monotonic()
        images = self._observer.meters[IMAGE]
        scenes = self._observer.meters[SCENE]
        if self._first_image is None and images.count:
            self._first_image = now
        gone = self._processes.first_exit()
        if gone is not None:
            if gone.name == "video_source" and gone.code == 0 and scenes.count:
                return True
            if gone.name == "video_source" and gone.code == BAD_INPUT:
                raise InputError(gone.last_line)
            raise NodeFailedError(str(gone))
        if not scenes.count and now - self._started > FIRST_SCENE_WITHIN_S:
            raise NodeFailedError(
                f"no scene came within {FIRST_SCENE_WITHIN_S:.0f} s, though every node runs: "
                "see their logs"
            )
        if self._first_image is None:
            return False
        playing = now - self._first_image
        if self._limit is not None:
            return playing >= self._limit
        silent = not images.recent(time.time_ns(), SILENCE_AT_END_S)
        expected = self._source.seconds
        return silent and expected is not None and playing >= expected


def _summarise(observer: Observer, console: Console) -> None:
    """Say at the end how many messages came and how old the scenes were."""
    rows = node_rows(observer)
    counts = ", ".join(
        f"{meter.count} {topic.name}"
        for topic, meter in observer.meters.items()
        if topic.name in ("image/compressed", "embedding", "reasoning", "scene")
    )
    console.print(f"received {counts}; key frames: {rows[2].keyframes}", soft_wrap=True)


def _draw(bag: Path, video: Path, source: Source, interrupt: Interrupt, console: Console) -> None:
    """Write overlay.mp4: whole after a run to the end, thinned out when the user is leaving."""
    limit = STOPPED_WITHIN_S - interrupt.seconds_since() if interrupt else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("drawing overlay.mp4", total=None)

        def tell(done: int, total: int) -> bool:
            progress.update(task, completed=done, total=total)
            return limit is not None or not interrupt

        written = write_overlay(
            bag, video, rate_hz=source.rate_hz, seconds_to_spend=limit, progress=tell
        )
    console.print(_about(written, bag, video), soft_wrap=True)


def _about(written: Written, bag: Path, video: Path) -> str:
    if not written.frames:
        return f"video: none, since {bag} holds no image with a scene"
    if not written.cut:
        return f"video: {video}"
    return (
        f"video: {video}  (shortened to {written.frames} of {written.of_frames} images, since you "
        f"ended the demo; `vlm-perception overlay {bag}` draws them all)"
    )
