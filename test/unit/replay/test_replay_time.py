# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings whose stamps are of another clock are replayed as a robot would have seen them."""

import json

import pytest
from rich.console import Console
from rosbags.highlevel import AnyReader
from support.recordings import START_NS, STEP_NS, jpeg, write

from vlm_perception.replay import run
from vlm_perception.replay.report.scene_log import read_log

COUNT = 10
FILES = [jpeg(index) for index in range(COUNT)]
TIMES = [START_NS + index * STEP_NS for index in range(COUNT)]
YEAR_NS = 365 * 86_400 * 10**9
APART = {
    "the computer's start": [5 * 10**9 + index * STEP_NS for index in range(COUNT)],
    "a slow simulation": [10**9 + index * STEP_NS // 4 for index in range(COUNT)],
    "a year ahead": [time_ns + YEAR_NS for time_ns in TIMES],
    "played slowly and recorded again": [
        time_ns - YEAR_NS - index * STEP_NS // 2 for index, time_ns in enumerate(TIMES)
    ],
}


def replayed(folder, stamps, time=None):
    """Statuses, notes and first line of a replay."""
    bag = write(folder / "bag", FILES, stamps=stamps)
    out = folder / "out"
    options = run.ReplayOptions(bag, out=out, time=time, overlay=False)
    assert run.run_replay(options, Console(quiet=True)) == 0
    head, *rest = read_log(out / run.LOG)
    notes = json.loads((out / run.RUN).read_text())["notes"]
    return [each["status"] for each in rest if "tags" in each], notes, head


@pytest.fixture(scope="module")
def as_live(tmp_path_factory):
    """The statuses of a robot that recorded its own camera."""
    late = [time_ns - 30_000_000 for time_ns in TIMES]
    statuses, notes, head = replayed(tmp_path_factory.mktemp("live"), late)
    assert "OK" in statuses
    assert not notes
    assert "time" not in head
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("clock", APART)
def test_stamps_of_another_clock_do_not_make_scenes_doubtful(clock, as_live, tmp_path):
    statuses, notes, head = replayed(tmp_path, APART[clock])
    assert statuses == as_live
    offset = abs(APART[clock][0] - TIMES[0]) * 1e-9
    (note,) = notes
    assert f"{offset:.1f}"[:-3] in note
    assert "--time recording" in note
    assert head["time"] == "stamps"
    # The results lie where the images do.
    with AnyReader([tmp_path / "out"]) as bag:
        times = [time_ns for _, time_ns, _ in bag.messages()]
    assert TIMES[0] <= min(times) <= max(times) < TIMES[-1] + STEP_NS


def test_ages_are_counted_on_the_recordings_clock_where_that_is_asked_for(tmp_path):
    stamps = APART["the computer's start"]
    statuses, notes, head = replayed(tmp_path, stamps, "recording")
    assert set(statuses) == {"NO_REASONING", "DEGRADED"}
    assert "--time stamps" in notes[0]
    assert "time" not in head


def test_an_earlier_recording_may_follow_a_later_one(tmp_path):
    folder = tmp_path / "bag"
    folder.mkdir()
    for name, first in (("a", 1000), ("b", 0)):
        part = write(tmp_path / name, FILES, first=first)
        (part / f"{name}.mcap").rename(folder / f"{name}.mcap")
    out = tmp_path / "out"
    options = run.ReplayOptions(folder, out=out, overlay=False)
    assert run.run_replay(options, Console(quiet=True)) == 0
    statuses = [each["status"] for each in read_log(out / run.LOG) if "tags" in each]
    assert statuses[:COUNT] == statuses[COUNT:]
    assert "OK" in statuses
    with AnyReader([out]) as bag:
        scenes = [each for each in bag.connections if each.topic == "/scene"]
        times = [time_ns for _, time_ns, _ in bag.messages(scenes)]
    assert sum(time_ns < TIMES[-1] + STEP_NS for time_ns in times) == COUNT
