# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The running graph that faults are tried on: real processes, a camera and a witness."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from vlm_perception.common.errors import RunError
from vlm_perception.common.fastdds_shared_memory import remove_leftovers
from vlm_perception.evaluation.chaos.testbed import hangable
from vlm_perception.evaluation.chaos.testbed.faulty_camera import RAW, Camera
from vlm_perception.evaluation.chaos.testbed.participant import Participant, Report, Seen, wait
from vlm_perception.evaluation.chaos.testbed.server_process import ServerProcess
from vlm_perception.rosgraph.processes import NodeProcesses, NodeSpec
from vlm_perception.types import Status

ENCODER, REASONER, FUSION = "vision_encoder", "language_reasoner", "scene_fusion"
NODES = (ENCODER, REASONER, FUSION)
CAMERA = "video_source"
"""A camera in a process of its own, for those faults that need one; see Stage.show()."""
HANGS = {
    ENCODER: hangable.ENGINE,
    REASONER: hangable.ENGINE,
    FUSION: "vlm_perception.perception.fusion.scene:SceneFusion.fuse",
    CAMERA: "sensor_msgs.msg:Image.__init__",
}
"""What hangs in a node that is started so: its network, or the making of what it sends."""
START_WITHIN_S = 90.0
ENDED_WITHIN_S = 5.0
SETTLE_S = 2.0
WARN = 1
"""As in DiagnosticStatus."""
IN_FLIGHT_S = 0.2
"""Images that are younger than this may still become scenes."""


class ChaosError(RunError):
    """The graph could not be brought up; the message says why."""


class Stage:
    """Starts the three nodes and a camera of its own; a context manager."""

    def __init__(
        self,
        bundle: str,
        folder: Path,
        *,
        sim_time: bool = False,
        transport: str = RAW,
        served: Mapping[str, bool | float | int | str] | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            bundle: name or absolute path of the model bundle.
            folder: takes the logs of the nodes.
            sim_time: whether the nodes take the time from /clock, which is then published.
            transport: how the camera's images travel, `raw` or `compressed`.
            served: parameters of the language node, whose model a server then runs; None: it runs
                the bundle's own.
        """
        self.folder = folder
        self.bundle = bundle
        """What the nodes are started with from now on."""
        self._sim_time = sim_time
        self._transport = transport
        self._served = served
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        """Bring the graph up and wait until its scenes are OK.

        Raises:
            ChaosError: it does not come up.
        """
        with ExitStack() as stack:
            self._processes = stack.enter_context(NodeProcesses(self.folder))
            self.participant = stack.enter_context(Participant())
            self.camera = stack.enter_context(Camera(self.participant, self._transport))
            if self._sim_time:
                self.clock = stack.enter_context(SimClock(self.participant))
                self.camera.keep_time_by(self.clock.now_ns)
            if self._served is not None:
                self.server = stack.enter_context(ServerProcess(self.bundle, self.folder))
                if self.server.start(START_WITHIN_S) is None:
                    raise ChaosError(f"the server does not start:\n{self.server.log()[-2000:]}")
            began = time.monotonic()
            for node in NODES:
                self._processes.start(self._spec(node))
            for node in NODES:
                if self.participant.active_since(node, began, START_WITHIN_S) is None:
                    raise ChaosError(f"{node} did not become active:\n{self.log(node)[-2000:]}")
            self.camera.start()
            self.settle()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything."""
        self._stack.__exit__(kind, error, trace)

    @property
    def pids(self) -> Mapping[str, int]:
        """The process of each node."""
        return self._processes.pids

    def log(self, node: str) -> str:
        """What a node has written since it was last started."""
        return (self.folder / f"{node}.log").read_text(encoding="utf-8", errors="replace")

    def kill(self, node: str, number: int = signal.SIGKILL) -> float:
        """Send a signal to a node and return when."""
        os.killpg(self.pids[node], number)
        return time.monotonic()

    def end(self, node: str) -> None:
        """Let a running node shut down properly, so that no other node relies on it any longer."""
        if self.exit_code(node) is None:
            self.kill(node, signal.SIGINT)
            wait(lambda: self.exit_code(node) is not None, ENDED_WITHIN_S)

    def respawn(self, node: str, remappings: Mapping[str, str] | None = None) -> float:
        """Start a node again, as a launch file does, and return when."""
        remove_leftovers()
        self._processes.start(replace(self._spec(node), remappings=remappings or {}))
        return time.monotonic()

    def start_hangable(self, node: str, flag: Path) -> float:
        """Start a node whose work hangs while the flag is there, and return when."""
        runner = (hangable.__name__, str(flag), HANGS[node])
        self._processes.start(replace(self._spec(node), runner=runner))
        return time.monotonic()

    def exit_code(self, node: str) -> int | None:
        """How a node has ended; None while it runs."""
        return self._processes.exit_code(node)

    def show(self, pictures: Path) -> None:
        """Let a camera in a process of its own, once it is started, play this folder."""
        self._pictures = pictures

    def settle(self) -> None:
        """Let the camera behave well and wait until all has been well for a while.

        No node reports anything then, not even past events: any later report is new. Of a served
        model past events are left, since each of its faults is told apart by its words.

        Raises:
            ChaosError: it does not become well.
        """
        self.participant.check()
        self.camera.behave_well()
        began = time.monotonic()

        def well() -> bool:
            now = time.monotonic()
            latest = self.participant.between(max(began, now - SETTLE_S), now)
            return (
                now - began > SETTLE_S
                and len(latest) > 5
                and all(scene.status is Status.OK for scene in latest)
                and not any(self._trouble_of(node, began) for node in NODES)
            )

        if not wait(well, START_WITHIN_S):
            last = self.participant.scenes[-1:]
            told = filter(None, (self._trouble_of(node, began) for node in NODES))
            scene = f"{last[0].status.name} {last[0].reason}".strip() if last else "none"
            raise ChaosError("; ".join((f"it does not recover: the last scene: {scene}", *told)))

    def _trouble_of(self, node: str, since_s: float) -> str:
        """What a node has reported last, if that is not that it is well; empty: it is."""
        report = self.participant.newest_report(node)
        if report is None or report.at_s <= since_s:
            return f"{node} reports nothing"
        borne = WARN if self._served is not None else 0
        return f"{node}: {report.message}" if report.level > borne else ""

    def noticed(self, since_s: float, within_s: float = 5.0) -> float | None:
        """Return the seconds from a time to the first scene that is not OK."""
        scene = self.participant.first_scene(lambda s: s.status is not Status.OK, since_s, within_s)
        return scene.at_s - since_s if scene else None

    def silenced(self, since_s: float, within_s: float = 5.0) -> float | None:
        """Return the seconds from a time to the end of the scene's liveliness."""

        def lost() -> float | None:
            return next((at for at in list(self.participant.silenced) if at > since_s), None)

        at_s: float | None = wait(lost, since_s + within_s - time.monotonic())
        return at_s - since_s if at_s else None

    def first_of(self, since_s: float, within_s: float = 60.0) -> float | None:
        """Return when the first scene came of an image that is newer than all seen before."""
        newest_ns = max(s.stamp_ns for s in self.participant.scenes if s.at_s <= since_s)
        newer = self.participant.first_scene(lambda s: s.stamp_ns > newest_ns, since_s, within_s)
        return newer.at_s if newer else None

    def well_again(
        self, since_s: float, within_s: float = 10.0, good: Collection[Status] = (Status.OK,)
    ) -> Seen | None:
        """Return the first scene after a time that is OK, of an image sent after it."""
        sent = self.camera.between(since_s, float("inf"))
        first_ns = sent[0].stamp_ns if sent else 0

        def wanted(scene: Seen) -> bool:
            return scene.status in good and scene.stamp_ns >= first_ns

        return self.participant.first_scene(wanted, since_s, within_s)

    def reported(self, since_s: float) -> str:
        """The status and reason of the first scene after a time that is not OK."""
        scenes = list(self.participant.scenes)
        bad = next((scene for scene in scenes if scene.at_s > since_s and scene.status), None)
        return f"{bad.status.name}: {bad.reason}" if bad else "always OK"

    def diagnosis(
        self, since_s: float, *nodes: str, about: str | Sequence[str] = "", within_s: float = 5.0
    ) -> Report | None:
        """Wait for the first report after a time whose level is not OK; None if none comes.

        Args:
            since_s: the monotonic time.
            nodes: whose report; any node's when empty.
            about: what the report's message must contain, or one of several such parts.
            within_s: how long to wait, from since_s on.
        """
        parts = (about,) if isinstance(about, str) else about

        def bad(report: Report) -> bool:
            named = any(part in report.message for part in parts)
            return report.at_s > since_s and report.level > 0 and named

        def first() -> Report | None:
            found = (
                next(filter(bad, list(self.participant.reports.get(node, []))), None)
                for node in nodes or NODES
            )
            return min(filter(None, found), key=lambda report: report.at_s, default=None)

        report: Report | None = wait(first, since_s + within_s - time.monotonic())
        return report

    def diagnosed(self, since_s: float, *nodes: str, about: str = "") -> float | None:
        """Return the seconds from a time to the report that diagnosis() returns."""
        report = self.diagnosis(since_s, *nodes, about=about)
        return report.at_s - since_s if report else None

    def lost(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Return how many images of a time became no scene, and how many there were."""
        time.sleep(IN_FLIGHT_S)
        sent = {image.stamp_ns for image in self.camera.between(start_s, end_s)}
        seen = {scene.stamp_ns for scene in self.participant.between(start_s, time.monotonic())}
        return len(sent - seen), len(sent)

    def _spec(self, node: str) -> NodeSpec:
        if node == CAMERA:
            source = str(self._pictures)
            return NodeSpec(node, {"source": source, "transport": "raw", "loop": True})
        parameters: dict[str, bool | float | int | str] = {"use_sim_time": self._sim_time}
        if node == REASONER and self._served is not None:
            parameters |= {**self._served, **self.server.parameters}
        if node != FUSION:
            parameters["bundle"] = self.bundle
        if node != REASONER:
            parameters["image_transport"] = self._transport
        return NodeSpec(node, parameters)


class SimClock:
    """Publishes /clock, which can be made to jump; a context manager."""

    RATE_HZ = 100.0

    def __init__(self, participant: Participant) -> None:
        """Start an hour after time zero."""
        from rosgraph_msgs.msg import Clock  # noqa: PLC0415

        self._message: Any = Clock
        self._publisher = participant.publisher(Clock, "/clock", 10)
        self._origin_s = time.monotonic() - 3600.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def __enter__(self) -> SimClock:
        """Let it run."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._ended.set()
        self._thread.join()

    def now_ns(self) -> int:
        """Return its time in nanoseconds."""
        return round((time.monotonic() - self._origin_s) * 1e9)

    def jump(self, seconds: float) -> float:
        """Jump, and return when, in monotonic seconds."""
        self._origin_s -= seconds
        return time.monotonic()

    def _run(self) -> None:
        while not self._ended.wait(1.0 / self.RATE_HZ):
            message = self._message()
            message.clock.sec, message.clock.nanosec = divmod(self.now_ns(), 1_000_000_000)
            self._publisher.publish(message)
