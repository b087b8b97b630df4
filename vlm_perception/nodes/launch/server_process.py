# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a model server beside the nodes: it ends with the launch, and is restarted when it fails.

Usage: python -m vlm_perception.nodes.launch.server_process PARENT_PID RESPAWN COMMAND [ARGUMENT...]

The server has a session of its own. Its whole process group ends on SIGINT and SIGTERM, and when
the process that started this one ends in any way. With `true` for RESPAWN a server that has ended
is started again, after pauses that grow; not one whose exit code says that its arguments are wrong.
Like the decoder of a bundle, it gives way to the encoder where they share cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from vlm_perception.common.parent_death import follow_parent
from vlm_perception.nodes.process.niceness import give_way, session_gives_way

FAILED, BAD_ARGUMENTS = 1, 2
"""Exit codes; argparse, which servers read their arguments with, ends with the second, too."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCHED = (*ENDING, signal.SIGCHLD)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 600.0
"""A server that has run this long did work: the pauses begin again with the first."""
GRACE_S = 3.0
"""To end in order. A launch file sends a second signal after five seconds."""
LOOKED_FOR_EVERY_S = 1.0
NICENESS = 19


def supervise() -> None:
    """Run the server until it is to end."""
    parent, respawn, *command = sys.argv[1:]
    # Blocked from here on, so that none is missed between two looks.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    if not follow_parent(int(parent), signal.SIGTERM):
        sys.exit("the process that started this one has ended")
    sys.exit(run(command, respawn=respawn == "true"))


def run(command: Sequence[str], *, respawn: bool) -> int:
    """Run a server, again and again; the exit code of this process. Signals must be blocked."""
    pause_s = FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        try:
            server = _start(command)
        except OSError as error:
            _say(f"{command[0]} cannot be started ({error.strerror}); install it again")
            return BAD_ARGUMENTS
        code = _outcome(server)
        if code is None:
            _say("ending the server")
            _end(server)
            return 0
        _kill_group(server)
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if code == BAD_ARGUMENTS or not respawn:
            _say(f"the server ended with {how}")
            return code if code >= 0 else FAILED
        if time.monotonic() - began >= STEADY_S:
            pause_s = FIRST_PAUSE_S
        _say(f"the server ended with {how} and is started again in {pause_s:.0f} s")
        if _asked_to_end(within_s=pause_s):
            return 0
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def tie() -> None:
        # A shell without job control starts commands with SIGINT ignored, and that is inherited.
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        give_way(NICENESS)
        with suppress(OSError):  # Where sessions may not give way, its processes do.
            session_gives_way(NICENESS)
        if not follow_parent(parent):
            os._exit(FAILED)

    # This process has no other thread that could hold a lock across the fork.
    return subprocess.Popen(command, start_new_session=True, preexec_fn=tie)  # noqa: PLW1509


def _outcome(server: subprocess.Popen[bytes]) -> int | None:
    """Wait for a server's exit code, as `Popen` has it; None if it is to end."""
    while not _has_ended(server):
        received = signal.sigtimedwait(WATCHED, LOOKED_FOR_EVERY_S)
        if received is not None and received.si_signo in ENDING:
            return None
    # It is not reaped before the group is dealt with: no other can get its number until then.
    ended = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _has_ended(server: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _asked_to_end(within_s: float) -> bool:
    return signal.sigtimedwait(ENDING, within_s) is not None


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server's group: in order if it can within the grace, and in any case."""
    os.killpg(server.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE_S
    while not _has_ended(server) and time.monotonic() < deadline:
        signal.sigtimedwait([signal.SIGCHLD], 0.1)
    _kill_group(server)


def _kill_group(server: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a server's group, and reap the server."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    supervise()
