# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The process that runs a model server: what ends the server, and what starts it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vlm_perception.nodes.launch import server_process

SERVER = """
import os, signal, sys, time
from http.server import HTTPServer, SimpleHTTPRequestHandler
if not os.fork():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    open(sys.argv[1] + "/child", "w").write(str(os.getpid()))
    time.sleep(600)
server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
open(sys.argv[1] + "/leader", "a").write(f"{os.getpid()}\\n")
try:
    server.serve_forever()
except KeyboardInterrupt:
    open(sys.argv[1] + "/in order", "w")
"""
PARENT = """
import os, subprocess, sys, time
process = subprocess.Popen([*sys.argv[2:4], sys.argv[4], str(os.getpid()), *sys.argv[5:]])
open(sys.argv[1] + "/wrapper", "w").write(str(process.pid))
time.sleep(600)
"""


def ended(pid: int) -> bool:
    """Whether a process has ended; what nobody has reaped yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Launched:
    """A server under the wrapper, which a parent of its own has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        wrapper = [sys.executable, "-m", server_process.__name__]
        command = [sys.executable, "-c", SERVER, str(folder)]
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder), *wrapper, "true", *command],
            stderr=(folder / "said").open("w"),
        )
        wait_until(lambda: self.pid("leader") > 0 and self.pid("child") > 0)

    def pid(self, name: str) -> int:
        file = self.folder / name
        numbers = file.read_text().split() if file.exists() else []
        return int(numbers[-1]) if numbers else 0

    def all_ended(self) -> bool:
        return all(ended(self.pid(name)) for name in ("wrapper", "leader", "child"))


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(tmp_path)
    yield launched
    launched.parent.kill()
    launched.parent.wait()
    wait_until(launched.all_ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order_and_all_of_its_group(
    launched: Launched, number: signal.Signals
) -> None:
    os.kill(launched.pid("wrapper"), number)
    wait_until(launched.all_ended)
    assert (launched.folder / "in order").exists()


def test_the_server_and_what_it_starts_give_way(launched: Launched) -> None:
    for name in ("leader", "child"):
        assert os.getpriority(os.PRIO_PROCESS, launched.pid(name)) == 19


def test_a_parent_that_is_killed_leaves_nothing(launched: Launched) -> None:
    launched.parent.kill()
    wait_until(launched.all_ended)


def test_a_server_that_is_killed_is_started_again_and_its_group_is_not_kept(
    launched: Launched,
) -> None:
    leader, child = launched.pid("leader"), launched.pid("child")
    os.kill(leader, signal.SIGKILL)
    wait_until(lambda: launched.pid("leader") != leader)
    assert ended(child)
    said = (launched.folder / "said").read_text()
    assert "the server ended with SIGKILL and is started again in 1 s" in said


def test_the_server_does_not_outlive_a_wrapper_that_is_killed(launched: Launched) -> None:
    os.kill(launched.pid("wrapper"), signal.SIGKILL)
    wait_until(lambda: ended(launched.pid("leader")))
    os.kill(launched.pid("child"), signal.SIGKILL)


def wrapped(respawn: str, *command: str) -> subprocess.Popen[str]:
    wrapper = [sys.executable, "-m", server_process.__name__, str(os.getpid()), respawn]
    return subprocess.Popen([*wrapper, *command], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("respawn", "command", "code", "sentence"),
    [
        ("true", ("sh", "-c", "exit 2"), 2, "the server ended with exit code 2\n"),
        ("false", ("sh", "-c", "exit 1"), 1, "the server ended with exit code 1\n"),
        ("false", ("sh", "-c", "kill -9 $$"), 1, "the server ended with SIGKILL\n"),
        ("true", ("/nope",), 2, "/nope cannot be started (No such file or directory); install"),
    ],
)
def test_what_is_not_started_again(
    respawn: str, command: tuple[str, ...], code: int, sentence: str
) -> None:
    process = wrapped(respawn, *command)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said[: len(sentence)]) == (code, sentence)


def test_pauses_grow_and_end_with_a_signal() -> None:
    process = wrapped("true", "sh", "-c", "exit 1")
    assert process.stderr is not None
    for pause_s in (1, 2):
        assert process.stderr.readline().endswith(f"is started again in {pause_s} s\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def test_nothing_is_started_for_a_parent_that_has_gone() -> None:
    wrapper = [sys.executable, "-m", server_process.__name__, "1", "true", "sh", "-c", "exit 7"]
    done = subprocess.run(wrapper, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "the process that started this one has ended\n")
