# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a process of nodes begins and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rclpy.parameter import Parameter

from vlm_perception.nodes.base.qos_overrides import check_overrides
from vlm_perception.nodes.process.environment import check_environment
from vlm_perception.nodes.process.errors import StartError
from vlm_perception.rosgraph.environment import require_ros

PROGRAM = """
import sys, threading
from rclpy.node import Node
from vlm_perception.nodes.process import runner as process

class Stuck(Node):
    def __init__(self):
        super().__init__("stuck")
        self.create_timer(0.05, self.callback)

    def callback(self):
        print("spins", flush=True)
        if sys.argv[1] == "callback":
            threading.Event().wait()

    def close(self):
        threading.Event().wait()

process.CLOSED_WITHIN_S = 0.1
process.run(Stuck)
"""


@pytest.mark.parametrize("place", ["close", "callback"])
def test_a_node_that_hangs_ends_and_says_where(place: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spins\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30.0)
    assert process.returncode == 1
    assert f"in {place}" in said


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ROS_DOMAIN_ID": "500"}, "ROS_DOMAIN_ID is '500' and must be"),
        ({"ROS_DOMAIN_ID": "mine"}, "ROS_DOMAIN_ID is 'mine' and must be"),
        ({"ROS_DOMAIN_ID": "-1"}, "ROS_DOMAIN_ID is '-1' and must be"),
        ({"ROS_LOG_DIR": "/proc/none"}, "set ROS_LOG_DIR to a writable folder"),
        (
            {"ROS_LOG_DIR": "", "ROS_HOME": "", "HOME": "/proc"},
            "set ROS_LOG_DIR to a writable folder",
        ),
        ({"ROS_LOG_DIR": "", "ROS_HOME": "", "HOME": ""}, "HOME is not set"),
    ],
)
def test_an_environment_that_no_node_can_start_in_is_explained(
    variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        check_environment(variables)


def test_what_starts_nodes_looks_at_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "500")
    with pytest.raises(StartError, match="ROS_DOMAIN_ID"):
        require_ros()


def test_domains_and_log_folders_that_can_be_are_taken(tmp_path: Path) -> None:
    for domain in ("", "0", "232", "0x10", "007", " 5 "):
        check_environment({"ROS_DOMAIN_ID": domain, "ROS_LOG_DIR": str(tmp_path / "log")})


LOADING = """
import time
from vlm_perception.nodes.base.lifecycle import NodeSettings, PerceptionNode
from vlm_perception.nodes.process.runner import run

class Loading(PerceptionNode[NodeSettings]):
    def load(self):
        print("loads", flush=True)
        time.sleep(60)

run(lambda: Loading("loading", NodeSettings))
"""


def test_a_signal_while_a_node_loads_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loads\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30.0)
    assert (process.returncode, said) == (0, "")


INTERRUPTED = """
import os, signal
import rclpy
from rclpy.node import Node
from vlm_perception.nodes.process.runner import run

def make():
    os.kill(os.getpid(), signal.SIGINT)
    while rclpy.ok():
        pass
    return Node("late")

run(make)
"""


def test_a_signal_while_nodes_are_made_is_no_failure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        check=False,
        text=True,
        timeout=60.0,
    )
    assert (done.returncode, done.stderr) == (0, "")


PROGRAMS = Path(sys.prefix) / "lib" / "vlm_perception"
TOOL = Path(sys.prefix) / "bin" / "vlm-perception"


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def interrupted(command: list[str], delay_s: float, number: signal.Signals) -> tuple[int, str]:
    """Exit code and warnings of a program after a signal, so long after its first line."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not catches_sigterm(process.pid):
            time.sleep(0.005)
        time.sleep(delay_s)
        process.send_signal(number)
        _, said = process.communicate(timeout=60.0)
    warnings = [line for line in said.splitlines() if "[INFO]" not in line]
    return process.returncode, "\n".join(warnings)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start_is_no_failure(number: signal.Signals) -> None:
    # The moments for imports, for making the node, for configuring it and for its work.
    command = [str(PROGRAMS / "scene_fusion")]
    moments = [number / 5.0 for number in range(15)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda moment: interrupted(command, moment, number), moments)
    assert dict(zip(moments, found, strict=True)) == dict.fromkeys(moments, (0, ""))


def test_ctrl_c_ends_a_verb_while_it_is_imported() -> None:
    command = [str(TOOL), "bundle", "--help"]
    # A shell starts what runs in its background with the signal ignored, and children inherit that.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert interrupted(command, 0.05, signal.SIGINT) == (130, "")
    finally:
        signal.signal(signal.SIGINT, kept)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nosuch"], "--nosuch"),
        (["--params-file", "missing.yaml"], "missing.yaml"),
        (["--params-file", "missing.yaml"], "--params-file FILE (it must exist)"),
        (["-p", "conflict_frames:=2.0"], "conflict_frames is 2.0 (float); give an integer"),
        (["-p", "autostart:=1"], "autostart is 1 (int); give true or false"),
        (["-p", "use_sim_time:=5"], "use_sim_time"),
    ],
)
def test_wrong_ros_arguments_are_one_sentence(arguments: list[str], named: str) -> None:
    assert named in refused("scene_fusion", arguments)


def refused(node: str, arguments: list[str]) -> str:
    """The one sentence with which a node refuses to start."""
    command = [sys.executable, "-m", f"vlm_perception.nodes.{node}", "--ros-args", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60.0)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cannot start: ")
    return last


OVERRIDES = [
    ("video_source", "/image.publisher.depth:=-3", "is -3; give an integer from 1 to 100000"),
    ("perception", "/image.subscription.reliability:=foo", "is 'foo'; choose one of: system"),
    ("scene_fusion", "/clock.subscription.depth:=much", "is 'much'; give an integer"),
]


def test_qos_overrides_that_cannot_be_used_end_any_node_with_one_sentence() -> None:
    def tried(node: str, override: str, _: str) -> str:
        arguments = ("use_sim_time:=true", f"qos_overrides.{override}")
        return refused(node, [word for each in arguments for word in ("-p", each)])

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda row: tried(*row), OVERRIDES))
    for (_, override, named), sentence in zip(OVERRIDES, said, strict=True):
        assert f"qos_overrides.{override.partition(':')[0]} {named}" in sentence


@pytest.mark.parametrize(
    ("policy", "good", "bad"),
    [
        ("depth", [1, 10, 100_000], [0, -3, 2**62, 2.0, True, "10", [1]]),
        ("reliability", ["reliable", "BEST_EFFORT", "system_default"], ["foo", "unknown", "", 1]),
        ("history", ["keep_last", "keep_all"], ["keep", ["keep_last"], False]),
        ("durability", ["volatile", "transient_local"], ["latched", 2.5]),
        ("deadline", [5, "not ours to judge"], []),
    ],
)
def test_which_qos_overrides_can_be_used(policy: str, good: list[Any], bad: list[Any]) -> None:
    name = f"qos_overrides./front/scene.publisher.{policy}"
    for value in good:
        check_overrides({name: Parameter(name, value=value)})
    for value in bad:
        with pytest.raises(StartError, match=r"give an integer|choose one of"):
            check_overrides({name: Parameter(name, value=value)})
