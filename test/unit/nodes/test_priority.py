# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Who gives way: a thread, those that it starts, and the session that the process leads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_perception.nodes.process import niceness
from vlm_perception.nodes.process.niceness import session_gives_way, session_niceness

PROGRAM = """
import os, threading
from vlm_perception.nodes.process.niceness import (
    give_way, session_as_before, session_gives_way, session_niceness,
)

def nice():
    seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

def work():
    give_way(7)
    nice()
    inner = threading.Thread(target=nice)
    inner.start()
    inner.join()
    give_way(3)
    nice()

seen = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
nice()
before = session_niceness()
session_gives_way(5)
session_gives_way(4)
given = session_niceness()
session_as_before()
print(*seen, before, given, session_niceness())
"""


@pytest.mark.parametrize("leads", [True, False])
def test_threads_and_sessions_give_way_and_a_session_takes_it_back(leads: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        check=True,
        text=True,
        start_new_session=leads,
    )
    *threads, before, group, after = done.stdout.split()
    own = int(threads[3])
    assert [int(nice) for nice in threads[:3]] == [max(own, 7)] * 3
    assert group == ("5" if leads and before != "None" else before)
    assert after == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_kernel_that_shares_the_cores_otherwise_is_left_alone(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "autogroup"
    if exists:
        group.touch()
    monkeypatch.setattr(niceness, "AUTOGROUP", group)
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())
    session_gives_way(5)
    assert session_niceness() is None
    assert group.exists() == exists
    assert not exists or group.read_text() == ""
