# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of a served language model: its server dies, hangs, is slow, or answers wrongly."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_perception.evaluation.chaos.testbed.finding import (
    KEPT_SHARE,
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    SILENCE_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.participant import wait
from vlm_perception.evaluation.chaos.testbed.server_process import WELL, ServerProcess
from vlm_perception.evaluation.chaos.testbed.stage import REASONER, ChaosError, Stage
from vlm_perception.perception.served.circuit import LONGEST_S, SHORTEST_S
from vlm_perception.rosgraph.participant import GraphMember
from vlm_perception.types import Status

DEADLINE_S = 1.0
SLOW_S = 1.5 * DEADLINE_S
PARAMETERS: Mapping[str, bool | float | int | str] = {
    "served_deadline": DEADLINE_S,
    # An analysis after the other, so that a fault soon meets one.
    "max_keyframe_age": 0.1,
    "max_caption_tokens": 8,
    "served_image_size": 320,
}
"""Of the language node; it sends one request at a time."""
FRESH = (Status.OK, Status.DEGRADED)
"""Of scenes with answers about the present, be they shorter ones for a while after slow ones."""
REPORTED_WITHIN_S = DEADLINE_S + NOTICED_WITHIN_S
IDLE_WITHIN_S = 2.0
PIECE_S, TOKENS = 0.03, 40
"""Of answers while descriptions are cancelled, which then take longer than that."""
STEP_S, STEPS = 0.02, 10
"""A description is cancelled after 0 to 9 steps: while it waits, is sent, or is answered."""
TOLD_S = 10.0
MORE_FILES = 4


@dataclass(frozen=True)
class ServerFault:
    """What happens to a server, and what the language node has to say of it."""

    name: str
    about: tuple[str, ...]
    """Parts of the report, of which one must be in it."""
    begin: Callable[[ServerProcess], object]
    end: Callable[[ServerProcess], object]


def _manner(name: str, *about: str, **changes: Any) -> ServerFault:
    return ServerFault(
        f"served: {name}",
        about,
        lambda server: server.behave(replace(WELL, **changes)),
        lambda server: server.behave(WELL),
    )


SERVER_FAULTS = (
    ServerFault(
        "served: kill -9 the server",
        ("no server listens",),
        ServerProcess.kill,
        lambda server: server.start(LOAD_S),
    ),
    ServerFault(
        "served: the server hangs",
        # The latter where the answer had begun.
        ("sent nothing within", "too slow"),
        lambda server: server.signal(signal.SIGSTOP),
        lambda server: server.signal(signal.SIGCONT),
    ),
    _manner("answers after the deadline", "too slow", piece_s=SLOW_S),
    _manner("half an answer", "ended the connection within an answer", cut=True),
    _manner("an answer that is none", "no chat completion", garbled=True),
    _manner("internal errors", "failed (500)", status=500),
    _manner("too many requests", "too often (429)", status=429),
    _manner("another model answers", "instead of", model="another/model"),
)


def attempt(stage: Stage, fault: ServerFault) -> Finding:
    """Let something happen to the server for a while."""
    since = time.monotonic()
    fault.begin(stage.server)
    time.sleep(SILENCE_S)
    fault.end(stage.server)
    return _judge(stage, fault.name, since, time.monotonic(), *fault.about)


def starts_late(stage: Stage) -> Finding:
    """Start the language node when there is no server, and the server after it."""
    stage.server.kill()
    stage.end(REASONER)
    active = stage.participant.active_since(REASONER, stage.respawn(REASONER), LOAD_S)
    if active is None:
        raise ChaosError(f"{REASONER} did not become active: {stage.log(REASONER)[-2000:]}")
    time.sleep(SILENCE_S)
    back = stage.server.start(LOAD_S)
    name = "served: the server starts after the graph"
    # The report that the node is active counts, too: it already says that there is no server.
    since = active - 0.001
    return _judge(stage, name, since, back or time.monotonic(), "no server listens")


def _judge(stage: Stage, name: str, since: float, back: float, *about: str) -> Finding:
    """What must hold of a fault that lasted from one time to another."""
    noticed = stage.noticed(since)
    diagnosis = stage.diagnosis(since, REASONER, about=about)
    well = stage.well_again(back, LOAD_S, FRESH)
    lost, of = stage.lost(since, well.at_s if well else time.monotonic())
    diagnosed = diagnosis.at_s - since if diagnosis else None
    recovered = well.at_s - back if well else None
    told = diagnosis.message if diagnosis else f"{REASONER} does not report {' or '.join(about)!r}"
    return Finding(
        name,
        f"{stage.reported(since)}; {told}; {lost} of {of} images without a scene",
        noticed,
        recovered,
        lost,
        within(noticed, REPORTED_WITHIN_S)
        and within(diagnosed, REPORTED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S + _pause_s(back - since))
        and lost <= (1 - KEPT_SHARE) * of,
        diagnosed,
    )


def _pause_s(fault_s: float) -> float:
    """How long a server may still be left alone after a fault: each pause is twice the last one."""
    return min(LONGEST_S, fault_s + SHORTEST_S)


def cancelled(stage: Stage, count: int) -> Finding:
    """Cancel descriptions, each of them soon after it was asked for."""
    from rclpy.action import ActionClient  # noqa: PLC0415

    from vlm_perception.action import Describe  # noqa: PLC0415

    server, since = stage.server, time.monotonic()
    files = _open_files(stage)
    server.behave(replace(WELL, piece_s=PIECE_S))
    given_up, slowest = 0, 0.0
    with GraphMember("asker") as member:
        client: Any = ActionClient(member.node, Describe, f"{REASONER}/describe")
        member.spin_aside()
        if not client.wait_for_server(TOLD_S):
            raise ChaosError(f"{REASONER} does not offer to describe")
        for number in range(count):
            goal = _result(client.send_goal_async(Describe.Goal(max_tokens=TOKENS)))
            time.sleep(number % STEPS * STEP_S)
            _result(goal.cancel_goal_async())
            given_up += not _result(goal.get_result_async()).result.success
            # Key frames go on: one request may be at work.
            slowest = max(slowest, _idle_s(server, 1))
        client.destroy()
    end = time.monotonic()
    server.behave(WELL)
    lost, of = stage.lost(since, end)
    stage.camera.stop()
    idle = _idle_s(server, 0)
    more = _open_files(stage) - files
    back = time.monotonic()
    stage.camera.start()
    well = stage.well_again(back, good=FRESH)
    return Finding(
        f"served: {count} descriptions are cancelled",
        f"{given_up} of them before their end, within {end - since:.0f} s; {slowest:.2f} s at most "
        "until the server had no more than the key frame's request, "
        f"{idle:.2f} s in the end until it had none and no connection was left; "
        f"{more} more open files; {lost} of {of} images without a scene",
        None,
        well.at_s - back if well else None,
        lost,
        given_up > 0
        and max(slowest, idle) <= IDLE_WITHIN_S
        and more <= MORE_FILES
        and lost <= (1 - KEPT_SHARE) * of
        and well is not None,
    )


def _result(future: Any) -> Any:
    """Wait for what an action answers.

    Raises:
        ChaosError: it does not.
    """
    if wait(future.done, TOLD_S) is None:
        raise ChaosError(f"{REASONER} does not answer within {TOLD_S:g} s")
    return future.result()


def _idle_s(server: ServerProcess, most: int) -> float:
    """Seconds until no more than so many requests and connections are left at a server."""
    began = time.monotonic()
    wait(lambda: server.at_work() <= most and server.connections() <= most, TOLD_S)
    return time.monotonic() - began


def _open_files(stage: Stage) -> int:
    return len(list(Path(f"/proc/{stage.pids[REASONER]}/fd").iterdir()))
