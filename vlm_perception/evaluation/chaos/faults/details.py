# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of frames on demand: requests without an answer, and wrong answers from a stranger."""

from __future__ import annotations

import time

from vlm_perception.evaluation.chaos.testbed.finding import (
    LOAD_S,
    RECOVERED_WITHIN_S,
    SILENCE_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.outcome import reported_only
from vlm_perception.evaluation.chaos.testbed.participant import wait
from vlm_perception.evaluation.chaos.testbed.stage import ENCODER, REASONER, ChaosError, Stage
from vlm_perception.rosgraph.participant import GraphMember
from vlm_perception.types import Status

WANT, DETAIL = "embedding/want", "embedding/detail"
ANSWERED_EVERY_S = 0.1
TOLD_WITHIN_S = 3.0
"""A frame that was given up is no fault yet; it is one when that goes on for a second."""


def unanswered(stage: Stage) -> Finding:
    """Let the encoder listen for requests on a topic without publishers."""
    stage.end(ENCODER)
    began = stage.respawn(ENCODER, {WANT: "nowhere"})
    if stage.participant.active_since(ENCODER, began, LOAD_S) is None:
        raise ChaosError(f"{ENCODER} did not become active: {stage.log(ENCODER)[-2000:]}")
    since = time.monotonic()
    diagnosis = stage.diagnosis(since, REASONER, about="cannot be analysed", within_s=10.0)
    diagnosed = diagnosis.at_s - since if diagnosis else None
    stale = stage.participant.first_scene(
        lambda scene: scene.status is Status.STALE_REASONING, since, within_s=5.0
    )
    stage.end(ENCODER)
    back = stage.participant.active_since(ENCODER, stage.respawn(ENCODER), LOAD_S)
    well = stage.well_again(back) if back else None
    recovered = well.at_s - back if well and back else None
    return Finding(
        "requests for frames are not answered",
        diagnosis.message if diagnosis else f"{REASONER} does not report it",
        stale.at_s - since if stale else None,
        recovered,
        0,
        stale is not None
        and within(diagnosed, TOLD_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )


def misanswered(stage: Stage) -> Finding:
    """Let a stranger answer, too, with frames of another run."""
    from vlm_perception.msg import FrameDetail  # noqa: PLC0415
    from vlm_perception.nodes.io.qos import results  # noqa: PLC0415

    with GraphMember("stranger") as member:
        publisher = member.node.create_publisher(FrameDetail, DETAIL, results(2))
        wait(lambda: publisher.get_subscription_count() > 0, SILENCE_S)
        since = time.monotonic()
        for sequence in range(round(SILENCE_S / ANSWERED_EVERY_S)):
            publisher.publish(FrameDetail(run_id="another", sequence=sequence))
            time.sleep(ANSWERED_EVERY_S)
        back = time.monotonic()
    return reported_only(
        stage, "answers for another run", since, back, REASONER, "to run 'another'"
    )
