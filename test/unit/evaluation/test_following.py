# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is followed is told apart by where it was when the drive began."""

from __future__ import annotations

from typing import Any

import pytest

from vlm_perception.datasets.roadworld.sequences import DRIVE, Stretch, play
from vlm_perception.evaluation.locate.following import (
    FIRST_SEED,
    HZ,
    LABELS,
    objects_of,
    run,
)


def test_an_object_is_the_same_in_each_frame_of_a_drive() -> None:
    frames = list(play(Stretch(DRIVE, FIRST_SEED, 0.5, HZ)))
    known: dict[Any, str] = {}
    for tick, street in enumerate(frames):
        here = objects_of(street, tick / HZ).values()
        assert len({origin for origin, _ in here}) == len(here)
        for origin, each in here:
            if each.label in LABELS:
                assert known.setdefault(origin, each.label) == each.label
    assert len(known) <= 2 * len(objects_of(frames[0], 0.0)), "objects are known again"


def test_a_drive_is_reported() -> None:
    rows: Any = (run("roadworld-nano", 1, 2.0).figures or {})["rows"]
    assert rows[0]["label"] == "all"
    assert rows[0]["on_object"] > rows[0]["still"], "a box that follows is more often on the object"
    for name in ("trials", "seconds"):
        assert rows[0][name] == pytest.approx(sum(row[name] for row in rows[1:]))
