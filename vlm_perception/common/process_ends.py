# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a process ended that should not have, in the words of a sentence."""

from __future__ import annotations

import signal


def told_end(code: int, said: str) -> str:
    """The name of the signal or the exit code, and the last line that the process wrote.

    Args:
        code: as `subprocess` has it, negative for a signal.
        said: all that it wrote to standard error.
    """
    try:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    lines = said.strip().splitlines()
    return f"{how} ({lines[-1].strip()})" if lines else how
