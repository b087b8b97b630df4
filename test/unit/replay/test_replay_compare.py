# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What changed between two logs is said, and judged by the tolerances."""

import json

import pytest
from support.places import DATA
from typer.testing import CliRunner

from vlm_perception.cli import app

GOLDEN = DATA / "drive.golden.jsonl"


@pytest.fixture
def changed(tmp_path):
    """Write a copy of the golden log in which each record went through a function."""

    def write(change):
        lines = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
        kept = [line for line in map(change, lines) if line is not None]
        file = tmp_path / "changed.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return file

    return write


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_a_log_is_the_same_as_itself():
    told = compare(GOLDEN, GOLDEN)
    assert told.exit_code == 0
    assert "same within the tolerances" in told.output


def answered_otherwise(record):
    if "tags" in record and record["frame"] % 4 == 0:
        record["attributes"]["weather"] = ["hail", 0.9]
    return record


def without_a_tag(record):
    if record.get("tags"):
        record["tags"].pop(next(iter(record["tags"])))
    return record


def later(record):
    if "latency" in record:
        record["latency"] = {name: each + 0.02 for name, each in record["latency"].items()}
    return record


CHANGES = [
    (answered_otherwise, "weather: 20 of 80 frames differ", "weather"),
    (without_a_tag, "lost in", "tags"),
    (later, "capture_to_scene, median: 11.0 ms and 31.0 ms", "capture_to_scene"),
    (
        lambda record: None if record.get("frame", 0) > 70 else record,
        "9 only in the first",
        "frames",
    ),
    (
        lambda record: None if "caption" in record and "reasoning" in record else record,
        "without a counterpart",
        "key frames",
    ),
]


@pytest.mark.parametrize(("change", "sentence", "subject"), CHANGES)
def test_a_change_is_told_and_fails(change, sentence, subject, changed):
    told = compare(GOLDEN, changed(change))
    assert told.exit_code == 1
    assert sentence in told.output
    assert subject in told.output.splitlines()[-1]


def test_tolerances_come_from_a_file(changed, tmp_path):
    other = changed(answered_otherwise)
    tolerances = tmp_path / "tolerances.yaml"
    tolerances.write_text("attributes: 0.3\n")
    assert compare(GOLDEN, other, "--tolerances", tolerances).exit_code == 0
    tolerances.write_text("atributes: 0.3\n")
    told = compare(GOLDEN, other, "--tolerances", tolerances)
    assert told.exit_code == 2
    assert "atributes" in told.output


def test_what_is_no_log_is_refused(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"log": "something else"}\n')
    told = compare(GOLDEN, tmp_path / "other.jsonl")
    assert told.exit_code == 2
    assert "not a scene log" in told.output
