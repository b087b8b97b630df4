# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A process that must not outlive the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Have Linux send a signal to this process at its parent's death (prctl(2)).

    Args:
        parent: process id of the parent, as it knows it.
        number: of the signal; of itself no process can refuse SIGKILL.

    Returns:
        Whether the parent was still there to be followed.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")
    return os.getppid() == parent
