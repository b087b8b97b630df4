# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Who gives way: a thread, those that it starts, and the session that the process leads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlm_perception.nodes.priority import AUTOGROUP

PROGRAM = """
import os, threading
from vlm_perception.nodes.priority import AUTOGROUP, give_way, session_gives_way

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
session_gives_way(5)
session_gives_way(4)
group = AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else "-"
print(*seen, group)
"""


@pytest.mark.parametrize("leads", [True, False])
def test_threads_and_sessions_give_way(leads: bool) -> None:
    before = AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else "-"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        check=True,
        text=True,
        start_new_session=leads,
    )
    *threads, group = done.stdout.split()
    own = int(threads[3])
    assert [int(nice) for nice in threads[:3]] == [max(own, 7)] * 3
    assert group == (before if not leads or before == "-" else "5")
