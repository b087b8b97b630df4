# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run a node's module in a process that cannot outlive the one that started it.

Usage: python -m vlm_perception.rosgraph.child PARENT_PID MODULE [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the module."""
    parent, module, *arguments = sys.argv[1:]
    _die_with(int(parent))
    # A shell without job control starts commands with SIGINT ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with(parent: int) -> None:
    """Ask Linux for a SIGKILL at the parent's death: a node that hangs must not stay either."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # It died before the call.
        sys.exit("the process that started this node has ended")


if __name__ == "__main__":
    main()
