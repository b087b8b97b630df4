# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Compressed images that are damaged on the way, or made to keep the decoder busy for minutes."""

from __future__ import annotations

import io
import time

from PIL import Image

from vlm_perception.evaluation.chaos.testbed.finding import (
    KEPT_SHARE,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    SILENCE_S,
    Finding,
    counts,
    within,
)
from vlm_perception.evaluation.chaos.testbed.stage import ENCODER, Stage
from vlm_perception.types import Status

BOMB_SIDE, BOMB_SCANS = 10_000, 400
BOMBS, BOMB_EVERY_S = 5, 0.05
"""A single one may be replaced by the camera's next image before its turn comes."""
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def damaged(stage: Stage) -> Finding:
    """Cut the middle out of three images in ten: they are skipped, the others become scenes."""
    stage.camera.behave(damaged=lambda index: index % 10 in (0, 4, 7))
    since = time.monotonic()
    time.sleep(SILENCE_S)
    end = time.monotonic()
    stage.camera.behave_well()
    diagnosis = stage.diagnosis(since, ENCODER)
    lost, of = stage.lost(since, end)
    scenes = stage.participant.between(since, end)
    count = _bad(stage, "damaged")
    diagnosed = diagnosis.at_s - since if diagnosis else None
    return Finding(
        "three images in ten are damaged",
        f"{lost} of {of} skipped, {count} counted as damaged: "
        f"{diagnosis.message if diagnosis else 'no diagnosis'}; {counts(scenes)}",
        None,
        None,
        lost,
        within(diagnosed, NOTICED_WITHIN_S)
        and 0.25 * of <= lost <= 0.35 * of
        and count > 0
        and all(scene.status in (Status.OK, Status.STALE_REASONING) for scene in scenes),
        diagnosed,
    )


def bomb(stage: Stage) -> Finding:
    """Send JPEGs that take minutes to decode between the camera's."""
    data = jpeg_bomb()
    since = time.monotonic()
    for _ in range(BOMBS):
        stage.camera.send_jpeg(data)
        time.sleep(BOMB_EVERY_S)
    diagnosis = stage.diagnosis(since, ENCODER)
    time.sleep(SILENCE_S)
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    well = stage.well_again(since)
    diagnosed = diagnosis.at_s - since if diagnosis else None
    recovered = well.at_s - since if well else None
    return Finding(
        "a JPEG bomb",
        f"{BOMBS} times {len(data) / 1e3:.0f} kB of {BOMB_SIDE}x{BOMB_SIDE} in {BOMB_SCANS} scans: "
        f"{diagnosis.message if diagnosis else 'no diagnosis'}; {lost} of {of} others lost",
        None,
        recovered,
        lost,
        within(diagnosed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S)
        and lost <= (1 - KEPT_SHARE) * of,
        diagnosed,
    )


def jpeg_bomb() -> bytes:
    """A progressive JPEG of few bytes whose last scan is there again and again."""
    with io.BytesIO() as file:
        picture = Image.new("L", (BOMB_SIDE, BOMB_SIDE), 128)
        picture.save(file, "jpeg", progressive=True, quality=1)
        whole = file.getvalue()
    last = whole.rindex(START_OF_SCAN)
    scan = whole[last : -len(END_OF_IMAGE)]
    return whole[:last] + BOMB_SCANS * scan + END_OF_IMAGE


def _bad(stage: Stage, kind: str) -> int:
    report = stage.participant.newest_report(ENCODER)
    return int(report.values.get(f"bad_messages.{kind}", 0)) if report else 0
