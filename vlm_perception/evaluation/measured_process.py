# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A process of its own for what is measured, so that nothing else counts in its memory."""

from __future__ import annotations

import subprocess
import sys

from vlm_perception.common.errors import RunError
from vlm_perception.common.process_ends import told_end


def output_of(module: str, *arguments: str) -> str:
    """Run a module as a program; what it prints.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise RunError(
            f"the measured process ended with {told_end(done.returncode, done.stderr)}; SIGKILL "
            "mostly means that memory is full: stop other programs, or take a smaller bundle"
        )
    return done.stdout
