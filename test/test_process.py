# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a process of nodes begins and ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import threading
from rclpy.node import Node
from vlm_perception.nodes import process

class Stuck(Node):
    def __init__(self):
        super().__init__("stuck")
        self.create_timer(0.05, lambda: print("spins", flush=True))

    def close(self):
        threading.Event().wait()

process.CLOSED_WITHIN_S = 0.1
process.run(Stuck)
"""


def test_a_node_that_hangs_while_it_closes_ends_and_says_where() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spins\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30.0)
    assert process.returncode == 1
    assert "in close" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--nosuch"], "--nosuch"), (["--params-file", "missing.yaml"], "missing.yaml")],
)
def test_wrong_ros_arguments_are_one_sentence(arguments: list[str], named: str) -> None:
    command = [sys.executable, "-m", "vlm_perception.nodes.scene_fusion", "--ros-args"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, check=False, text=True, timeout=60.0
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cannot start: ") and named in last
    assert "Traceback" not in done.stderr
