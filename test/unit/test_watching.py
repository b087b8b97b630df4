# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo and the benchmark read off messages, processes and shared memory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message

from vlm_perception.common.fastdds_shared_memory import remove_leftovers, shortage
from vlm_perception.messages.rosbags import stamp_of_serialized
from vlm_perception.msg import SemanticScene
from vlm_perception.rosgraph.process_usage import cpu_percent, usage_of
from vlm_perception.rosgraph.topic_meter import Arrival, Meter, percentiles


def test_the_stamp_is_read_from_the_bytes() -> None:
    message = SemanticScene(sequence=7)
    message.header.stamp.sec, message.header.stamp.nanosec = 1_900_000_000, 123_456_789
    assert stamp_of_serialized(serialize_message(message)) == 1_900_000_000_123_456_789


def test_rate_counts_the_last_seconds_only() -> None:
    meter = Meter()
    for index in range(100):
        meter.add(Arrival(index * 100_000_000, index * 100_000_000 - 5_000_000))
    assert meter.rate_hz(99 * 100_000_000) == pytest.approx(10.0)
    assert meter.rate_hz(200 * 100_000_000) == 0
    found = meter.between(0, 1_000_000_000)
    assert [each.latency_ms for each in found] == [5.0] * 10
    assert percentiles([]) is None


def test_only_segments_that_nobody_holds_are_deleted(tmp_path: Path) -> None:
    dead, live, young = (f"fastdds_{digit * 16}" for digit in "0ab")
    port = "fastrtps_port7410"
    names = {f"{base}{end}" for base in (dead, live, young, port) for end in ("", "_el")}
    names.add("other")
    for name in names:
        (tmp_path / name).write_bytes(bytes(8192))
        if young not in name:
            os.utime(tmp_path / name, (time.time() - 60,) * 2)
    with (tmp_path / f"{live}_el").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == 2 * 8192
    left = {path.name for path in tmp_path.iterdir()}
    # A port belongs to its number: a live process may have it open and wait for the next owner.
    assert left == names - {dead, f"{dead}_el"}


def test_missing_shared_memory_is_said(tmp_path: Path) -> None:
    assert "mount" in shortage(tmp_path / "missing")


def test_usage_of_this_process_rises_with_work() -> None:
    before, started = usage_of(os.getpid()), time.monotonic()
    while time.monotonic() - started < 0.3:
        pass
    after = usage_of(os.getpid())
    assert cpu_percent(before, after, 0.3) > 10
    assert 5 < after.rss_mb < 20_000
