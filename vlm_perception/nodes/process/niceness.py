# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Who is served first when there are fewer cores than work."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
"""Nice value of this process's session, see sched(7).

Absent where the kernel has none; empty where a control group shares the cores instead, and in a
process that never was in a session of its own, as the first ones of a container.
"""
TRIES, RETRY_S = 5, 0.1
"""The kernel lets all users together write there ten times a second."""

_before: list[int] = []
"""Nice values that the session had each time before it gave way."""


def give_way(niceness: int) -> None:
    """Let the calling thread, and those that it starts from now on, give way to others.

    Linux has a nice value for each thread, so this works beside other nodes in one process, too.

    Args:
        niceness: 0 to 19; a thread that gives way more already is left so, and only an
            administrator can take it back.
    """
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


def session_gives_way(niceness: int) -> None:
    """Let the session that this process leads give way to other sessions; else do nothing.

    Where the kernel groups processes by session, it shares the cores among the sessions first, and
    the nice value of a thread counts within its own only. Several nodes that one `ros2 launch`
    started are one session; a node that leads a session of its own needs this.

    Args:
        niceness: 0 to 19; a session that gives way more already is left so.

    Raises:
        OSError: the kernel does not let it.
    """
    current = session_niceness()
    if current is not None and current < niceness and os.getsid(0) == os.getpid():
        AUTOGROUP.write_text(str(niceness), encoding="ascii")
        _before.append(current)


def session_as_before() -> None:
    """Restore the session's priority for the end of its process, which others wait for.

    Anybody may do that for a session, unlike for a thread.
    """
    for _ in range(TRIES if _before else 0):
        try:
            AUTOGROUP.write_text(str(_before[0]), encoding="ascii")
            return
        except BlockingIOError:
            time.sleep(RETRY_S)
        except OSError:
            return  # It ends as slowly as it worked.


def session_niceness() -> int | None:
    """Nice value of this process's session among the others; None where sessions have none."""
    if not AUTOGROUP.exists():
        return None
    # "/autogroup-25 nice 0"
    words = AUTOGROUP.read_text(encoding="ascii").split()
    return int(words[-1]) if words else None
