# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run a node's module in a process that cannot outlive the one that started it.

Usage: python -m vlm_perception.rosgraph.child PARENT_PID MODULE [ARGUMENT...]
"""

from __future__ import annotations

import runpy
import signal
import sys

from vlm_perception.common.parent_death import follow_parent


def main() -> None:
    """Tie this process to its parent, then become the module."""
    parent, module, *arguments = sys.argv[1:]
    # By SIGKILL: a node that hangs must not stay either.
    if not follow_parent(int(parent)):
        sys.exit("the process that started this node has ended")
    # A shell without job control starts commands with SIGINT ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
