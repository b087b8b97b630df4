# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a process of nodes ends."""

from __future__ import annotations

import signal
import subprocess
import sys

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
