# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The demo from start to end: check, start, watch, record, stop, draw."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle import ModelBundle
from vlm_perception.demo.environment import own_graph, require_ros
from vlm_perception.demo.graph import DEFAULT_BUNDLE, Graph, GraphOptions
from vlm_perception.demo.observer import Observer
from vlm_perception.demo.panel import Panel
from vlm_perception.demo.processes import NodeProcesses
from vlm_perception.demo.recorder import Recorder
from vlm_perception.demo.source import ROADWORLD_SECONDS, open_source
from vlm_perception.demo.topics import EMBEDDING, IMAGE, REASONING, RECORDED, SCENE
from vlm_perception.demo.watch import NodeFailedError, Watch
from vlm_perception.nodes.shared_memory import shortage
from vlm_perception.replay.interrupt import Interrupt
from vlm_perception.replay.overlay_video import write_overlay

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


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo.

    Returns:
        The exit code: 0 at the end of the video or after Ctrl-C, 1 when a node failed or the bag
        had to end early.

    Raises:
        ValueError: Video or bundle cannot be used; nothing was started.
        GraphEnvironmentError: ROS or the built messages are missing.
        OSError: The folder cannot be written.
    """
    require_ros()
    bundle = str(ModelBundle.load(options.bundle).path.resolve())
    source = open_source(options.video)
    if warning := shortage():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    # The road world is a clip of fixed length: whoever wants more sees it again.
    longer = options.video is None and (options.seconds or 0) > ROADWORLD_SECONDS
    with Interrupt() as interrupt, own_graph():
        run = _Run(options, GraphOptions(source, bundle, loop=longer), interrupt, console)
        try:
            run.play()
        except NodeFailedError as error:
            console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
            run.finish()
            return FAILED
        run.finish()
        return interrupt.exit_code() or (FAILED if run.recording_ended_early else 0)


class _Run:
    """One run of the demo."""

    def __init__(
        self, options: DemoOptions, graph: GraphOptions, interrupt: Interrupt, console: Console
    ) -> None:
        self._options = options
        self._graph = graph
        self._interrupt = interrupt
        self._console = console
        self._bag, self._video = options.out / "scene.mcap", options.out / "overlay.mp4"
        self._recorder = Recorder(self._bag, RECORDED)
        self._observer = Observer(RECORDED, self._recorder.put)
        self.recording_ended_early = False

    def play(self) -> None:
        """Start the nodes, show what they do until it is over, and stop them.

        Raises:
            InputError: The source became unreadable on the way.
            NodeFailedError: A node failed.
        """
        self._options.out.mkdir(parents=True, exist_ok=True)
        for earlier in (self._bag, self._video):
            earlier.unlink(missing_ok=True)
        observer, interrupt, source = self._observer, self._interrupt, self._graph.source
        with ExitStack() as stack:
            processes = stack.enter_context(NodeProcesses(self._options.out / "nodes"))
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
        if self._recorder.complaint and not self.recording_ended_early:
            self.recording_ended_early = True
            text = f"warning: {self._bag} ends here: {self._recorder.complaint}"
            self._console.print(text, style="yellow", soft_wrap=True, markup=False)

    def finish(self) -> None:
        """Draw the video and say what there is and where."""
        counts = ", ".join(
            f"{self._observer.meters[topic].count} {topic.name}"
            for topic in (IMAGE, EMBEDDING, REASONING, SCENE)
        )
        self._say(f"received {counts}; {self._observer.keyframes()} key frames")
        self._tell_of_recording()
        if self._recorder.messages:
            self._say(f"bag: {self._bag}  ({self._recorder.messages} messages)")
            self._say(f"video: {self._draw()}")

    def _draw(self) -> str:
        """Write overlay.mp4: whole after a run to the end, thinned out when the user leaves."""
        again = f"`vlm-perception overlay {self._bag}` draws them all"
        if self.recording_ended_early:
            return f"none, since there was no room for the bag; {again}"
        limit = STOPPED_WITHIN_S - self._interrupt.seconds_since() if self._interrupt else None
        if limit is not None and limit < WORTH_DRAWING_S:
            return f"none, since you ended the demo; {again}"
        silent = not self._console.is_terminal
        with Progress(console=self._console, transient=True, disable=silent) as progress:
            task = progress.add_task("drawing overlay.mp4", total=None)

            def tell(done: int, total: int) -> bool:
                progress.update(task, completed=done, total=total)
                return limit is not None or not self._interrupt

            rate = self._graph.source.rate_hz
            written = write_overlay(
                self._bag, self._video, rate_hz=rate, seconds_to_spend=limit, progress=tell
            )
        if not written.frames:
            return f"none, since {self._bag} holds no image with a scene"
        if not written.cut:
            return str(self._video)
        share = f"{written.frames} of {written.of_frames} images"
        return f"{self._video}  (shortened to {share}, since you ended the demo; {again})"

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
