# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A run that was cut off anywhere finds all that it had finished, and nothing else."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest

from vlm_perception.evaluation.journal import Journal, JournalError

IDENTITY = {"bundle": "a1b2", "splits": ("random", "popular")}


def test_what_was_finished_is_found_wherever_the_last_line_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    finished = {"a": [0.1, "ja ß \u2028 ja"], "b": None, "c": {"x": 3}}
    with Journal(file, IDENTITY) as journal:
        for key, item in finished.items():
            journal.add(key, item)
    whole = file.read_bytes()
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        with Journal(file, IDENTITY) as journal:
            left = dict(journal.items)
            assert left == dict(list(finished.items())[: len(left)])
            assert len(left) == max(0, whole[:length].count(b"\n") - 1)
            for key in finished.keys() - left.keys():
                journal.add(key, finished[key])
        with Journal(file, IDENTITY) as journal:
            assert journal.items == finished


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, IDENTITY) as journal:
        journal.add("a", 1)
    left = file.read_bytes()
    with pytest.raises(JournalError, match=r'bundle was "a1b2" and is "c3" now.*remove') as caught:
        Journal(file, {**IDENTITY, "bundle": "c3"})
    assert "splits" not in str(caught.value)
    with pytest.raises(JournalError, match=r"seed was null and is 1 now"):
        Journal(file, {**IDENTITY, "seed": 1})
    assert file.read_bytes() == left


def test_of_a_run_that_finished_nothing_nothing_is_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    for identity in (IDENTITY, {"bundle": "c3"}):
        with Journal(file, identity) as journal:
            assert not journal.items
    assert json.loads(file.read_text())["identity"].items() >= {"bundle": "c3"}.items()


def test_another_version_of_the_program_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.named(tmp_path, "texts", IDENTITY) as journal:
        journal.add("a", 1)
    monkeypatch.setattr("vlm_perception.evaluation.journal.code_digest", lambda *_: "updated")
    with pytest.raises(JournalError, match=r'program was .* and is "updated" now'):
        Journal(journal.file, IDENTITY)
    with Journal.named(tmp_path, "texts", IDENTITY) as other:
        assert not other.items


def test_on_a_full_disk_what_was_added_before_stays_whole(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, IDENTITY) as journal:
        journal.add("a", "x" * 5000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The kernel takes the first 40 bytes of the next line, and then no more.
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 40, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                journal.add("b", "y" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        journal.add("c", "\ud800")
    with Journal(file, IDENTITY) as journal:
        assert journal.items == {"a": "x" * 5000, "c": "\ud800"}


@pytest.mark.parametrize(
    "damage",
    [b"[]\n", b'{"identity": 3}\n{"key": "a", "item": 1}\n', None, b"\0" * 50 + b"\n"],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "journal.jsonl"
    first = json.dumps({"identity": IDENTITY}).encode() + b"\n"
    file.write_bytes(damage or first + b'{"key": 1, "item": 2}\n' + first)
    with pytest.raises(JournalError, match=r"remove .*journal\.jsonl to start over"):
        Journal(file, IDENTITY)
