# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The demo from start to end: check, start, watch, record, stop, draw."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.disk_space import DiskFullError
from vlm_perception.common.fastdds_shared_memory import shortage
from vlm_perception.common.interrupt import Interrupt
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.demo.panel import Panel
from vlm_perception.demo.watch import NodeFailedError, Watch
from vlm_perception.outputs.console import say
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.replay.recordings.writer import METADATA
from vlm_perception.replay.report.overlay_video import write_overlay
from vlm_perception.replay.settings import default_parameters
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.launch import (
    DEFAULT_BUNDLE,
    ENCODER,
    FUSION,
    REASONER,
    Graph,
    GraphOptions,
)
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.processes import NodeProcesses
from vlm_perception.rosgraph.recorder import Recorder, keep_recordings
from vlm_perception.rosgraph.source import ROADWORLD_SECONDS, open_source
from vlm_perception.rosgraph.topics import EMBEDDING, IMAGE, REASONING, RECORDED, SCENE

BAG, VIDEO, NODES, RECORD = "scene.mcap", "overlay.mp4", "nodes", "served.jsonl"
RESULTS = (BAG, METADATA, VIDEO, RECORD, f"{NODES}/*")
POLL_S = 0.1
LAST_MESSAGES_S = 0.3
STOPPED_WITHIN_S = 1.4
"""After Ctrl-C; two seconds are promised."""
WORTH_DRAWING_S = 0.4
"""With less time left a video is not begun."""
FAILED = 1


@dataclass(frozen=True)
class DemoOptions:
    """What `vlm-perception demo` is asked for."""

    video: str | None = None
    seconds: float | None = None
    out: Path = Path("out/demo")
    bundle: str = DEFAULT_BUNDLE
    served: Mapping[str, str | bool] = field(default_factory=dict)
    """Parameters of language_reasoner for a model that a server runs; none for the bundle's."""


def require_playable(video: str | None) -> None:
    """Refuse what no demo can play, whatever the bundle.

    Raises:
        InputError: The video cannot be used.
        GraphEnvironmentError: ROS or the built messages are missing.
    """
    require_ros()
    if video is not None:
        open_source(video)


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo.

    Returns:
        The exit code: 0 at the end of the video or after Ctrl-C, 1 when a node failed or the bag
        had to end early.

    Raises:
        VlmPerceptionError: Video or bundle cannot be used; nothing was started.
        GraphEnvironmentError: ROS or the built messages are missing.
        OSError: The folder cannot be written.
    """
    require_ros()
    bundle = ModelBundle.load(options.bundle)
    source = open_source(options.video)
    read = [] if options.video is None else [Path(options.video).expanduser()]
    folder = ResultsFolder(options.out, "demo", RESULTS, read)
    if warning := shortage():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    # The road world is a clip of fixed length: a longer demo repeats it.
    longer = options.video is None and (options.seconds or 0) > ROADWORLD_SECONDS
    with Interrupt() as interrupt, own_graph(), folder:
        _look_back(folder, options.out, console)
        reasons = bundle.manifest.language is not None or options.served
        graph = GraphOptions(
            source,
            str(bundle.path),
            loop=longer,
            nodes=(FUSION, REASONER, ENCODER) if reasons else (FUSION, ENCODER),
            language=_recorded(options.served, folder.work),
        )
        parameters = _parameters(graph.bundle, options.served)
        run = _Run(options, folder, graph, parameters, interrupt, console)
        try:
            run.play()
        except NodeFailedError as error:
            console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
            run.finish()
            return FAILED
        run.finish()
        return interrupt.exit_code() or (FAILED if run.recording_ended_early else 0)


def _recorded(served: Mapping[str, str | bool], folder: Path) -> Mapping[str, str | bool]:
    """The same, with a record of what the server answers, so that a replay can do without it."""
    return {**served, "served_record": str((folder / RECORD).absolute())} if served else {}


def _parameters(bundle: str, language: Mapping[str, str | bool]) -> dict[str, Any]:
    """The package's own, with another bundle: so that the launch file can read them, too."""
    content: dict[str, Any] = read_yaml(default_parameters())
    content[f"/**/{REASONER}"]["ros__parameters"] |= language
    for section in content.values():
        if "bundle" in section["ros__parameters"]:
            section["ros__parameters"]["bundle"] = bundle
    return content


def _look_back(folder: ResultsFolder, out: Path, console: Console) -> None:
    """Say what became of a demo before this one that did not come to its end."""
    if folder.completed:
        say(console, f"note: the results of the previous demo have only now been moved to {out}")
    if folder.left_over:
        for file in keep_recordings(folder.work, folder.path):
            say(console, f"note: an interrupted demo left a recording: {_readable(out, file)}")
        folder.clear()


def _readable(out: Path, file: Path) -> str:
    return f"{out / file.name}, which `vlm-perception replay` reads up to the interruption"


class _Run:
    """One run of the demo."""

    def __init__(
        self,
        options: DemoOptions,
        folder: ResultsFolder,
        graph: GraphOptions,
        parameters: Mapping[str, Any],
        interrupt: Interrupt,
        console: Console,
    ) -> None:
        self._options, self._folder = options, folder
        self._graph, self._parameters = graph, parameters
        self._interrupt = interrupt
        self._console = console
        self._bag, self._video = options.out / BAG, options.out / VIDEO
        self._recorder = Recorder(folder.work / BAG, RECORDED)
        self._observer = Observer(RECORDED, self._recorder.put)
        self.recording_ended_early = False

    def play(self) -> None:
        """Start the nodes, show what they do until it is over, and stop them.

        Raises:
            InputError: The source became unreadable on the way.
            NodeFailedError: A node failed.
        """
        observer, interrupt, source = self._observer, self._interrupt, self._graph.source
        with ExitStack() as stack:
            nodes = NodeProcesses(self._folder.work / NODES, self._parameters)
            processes = stack.enter_context(nodes)
            stack.enter_context(self._recorder)
            stack.enter_context(observer)
            graph = Graph(self._graph, processes, observer)
            panel = stack.enter_context(Panel(observer, source.description, self._console))
            watch = Watch(source, processes, observer, self._options.seconds)
            while not interrupt and not watch.ended():
                graph.play_when_ready()
                panel.update()
                self._tell_of_recording()
                interrupt.sleep(POLL_S)
            interrupt.sleep(LAST_MESSAGES_S)
            # Bag and panel are closed while the nodes end.
            processes.ask_to_stop()

    def _tell_of_recording(self) -> None:
        """Say once that nothing is recorded any more, though all goes on."""
        if self._recorder.failure and not self.recording_ended_early:
            self.recording_ended_early = True
            text = f"warning: {self._bag} ends here: {self._recorder.failure}"
            self._console.print(text, style="yellow", soft_wrap=True, markup=False)

    def finish(self) -> None:
        """Draw the video, move bag and video to their final places, and print where.

        A recording that is not whole is kept beside those of the last demo.
        """
        counts = ", ".join(
            f"{self._observer.meters[topic].count} {topic.name}"
            for topic in (IMAGE, EMBEDDING, REASONING, SCENE)
        )
        self._say(f"received {counts}; {self._observer.keyframes()} key frames")
        self._tell_of_recording()
        if self._recorder.torn:
            for file in keep_recordings(self._folder.work, self._folder.path):
                self._say(f"bag: {_readable(self._options.out, file)}")
        elif self._recorder.messages:
            video = self._draw()
            self._folder.publish()
            self._say(f"bag: {self._bag}  ({self._recorder.messages} messages)")
            self._say(f"video: {video}")
        else:
            self._say(f"nothing was recorded; the nodes' logs are in {self._folder.work / NODES}")

    def _draw(self) -> str:
        """Write overlay.mp4: whole after a run to the end, thinned out when the user leaves."""
        again = f"`vlm-perception overlay {self._bag}` draws them all"
        if self.recording_ended_early:
            return f"none, since the disk was too full for the bag; {again}"
        limit = STOPPED_WITHIN_S - self._interrupt.seconds_since() if self._interrupt else None
        if limit is not None and limit < WORTH_DRAWING_S:
            return f"none, since you stopped the demo; {again}"
        silent = not self._console.is_terminal
        with Progress(console=self._console, transient=True, disable=silent) as progress:
            task = progress.add_task("drawing overlay.mp4", total=None)

            def tell(done: int, total: int) -> bool:
                progress.update(task, completed=done, total=total)
                return limit is not None or not self._interrupt

            rate = self._graph.source.rate_hz
            bag, video = self._folder.work / BAG, self._folder.work / VIDEO
            try:
                written = write_overlay(
                    bag, video, rate_hz=rate, seconds_to_spend=limit, progress=tell
                )
            except DiskFullError as error:
                return f"none: {error}; {again}"
        if not written.frames:
            return f"none, since {self._bag} contains no image with a scene"
        if not written.cut:
            return str(self._video)
        share = f"{written.frames} of {written.of_frames} images"
        return f"{self._video}  (shortened to {share}, since you stopped the demo; {again})"

    def _say(self, text: str) -> None:
        say(self._console, text)
