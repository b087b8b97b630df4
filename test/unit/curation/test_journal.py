# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers outlive kills, are whole or absent, and are the same for all who asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.curation.journal import JOURNAL, Journal

WRITER = """
import sys
from pathlib import Path
from vlm_perception.curation.journal import Journal
journal, me = Journal(Path(sys.argv[1])), sys.argv[2]
for place in range(int(sys.argv[3])):
    answer = journal.add(f"{place:064x}", {"language": "en", "attempt": 1}, f"{me} {place}")
    print(place, answer, flush=True)
"""


def writer(folder, name, count):
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_ask_the_same_get_one_answer(tmp_path):
    both = [writer(tmp_path, name, 60) for name in "ab"]
    said = [process.communicate()[0].splitlines() for process in both]
    assert said[0] == said[1] and len(said[0]) == 60
    for line in said[0]:
        place, answer = line.split(" ", 1)
        request = {"attempt": 1, "language": "en"}
        assert Journal(tmp_path).known(f"{int(place):064x}", request) == answer


def test_what_was_added_outlives_a_kill(tmp_path):
    process = writer(tmp_path, "a", 100_000)
    told = [process.stdout.readline() for _ in range(30)]
    os.kill(process.pid, signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait()
    # The last line may be cut off, and one more answer may have been kept but not told.
    whole = [line.split(" ", 1) for line in told if line.endswith("\n")]
    for place, answer in whole:
        known = Journal(tmp_path).known(f"{int(place):064x}", {"language": "en", "attempt": 1})
        assert known == answer.strip()
    kept = list((tmp_path / JOURNAL).rglob("*.json"))
    assert len(whole) <= len(kept) <= len(whole) + 1
    for file in kept:
        json.loads(file.read_bytes())


@settings(max_examples=12, deadline=None)
@given(
    request=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=1),
    answer=st.text() | st.lists(st.floats(allow_nan=False)),
    cut=st.integers(0, 40),
)
def test_a_damaged_answer_is_unknown_and_can_be_given_again(tmp_path_factory, request, answer, cut):
    folder = tmp_path_factory.mktemp("set")
    journal, sha256 = Journal(folder), "ab" * 32
    assert journal.known(sha256, request) is None
    assert journal.add(sha256, request, answer) == answer
    turned = dict(reversed(request.items()))
    assert journal.add(sha256, turned, "too late") == answer
    assert journal.known("cd" * 32, request) is None
    assert journal.known(sha256, {**request, "more": 1}) is None
    (file,) = (folder / JOURNAL).rglob("*.json")
    file.write_bytes(file.read_bytes()[:cut])
    assert journal.known(sha256, request) is None
    assert journal.add(sha256, request, "again") == "again" == journal.known(sha256, request)
