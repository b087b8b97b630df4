# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The outcome of most faults: a scene or only a node reports it, and it is overcome."""

from __future__ import annotations

from vlm_perception.evaluation.chaos.testbed.finding import (
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.stage import Stage
from vlm_perception.types import Status

LOOKED_AT_WITHIN_S = 2.0
"""Who publishes on a topic is looked at now and then, not with each message."""


def overcome(
    stage: Stage,
    name: str,
    since_s: float,
    back_s: float,
    *nodes: str,
    seen: str = "",
    lost: int = 0,
    ok: bool = True,
) -> Finding:
    """Judge a fault that must be noticed, diagnosed and overcome, each in time.

    Args:
        stage: where it was tried.
        name: of the fault.
        since_s: when it began, in monotonic seconds.
        back_s: when it ended.
        nodes: of which one must report it; any when empty.
        seen: what else was seen.
        lost: images that no scene was made of.
        ok: whether what else must hold does.
    """
    noticed = stage.noticed(since_s)
    diagnosed = stage.diagnosed(since_s, *nodes)
    well = stage.well_again(back_s, LOAD_S)
    recovered = well.at_s - back_s if well else None
    return Finding(
        name,
        "; ".join(filter(None, (stage.reported(since_s), seen))),
        noticed,
        recovered,
        lost,
        ok
        and within(noticed, NOTICED_WITHIN_S)
        and within(diagnosed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )


def reported_only(
    stage: Stage, name: str, since: float, back: float, node: str, about: str
) -> Finding:
    """Judge what a node must name on /diagnostics, and what must not disturb the scene for long."""
    diagnosis = stage.diagnosis(since, node, about=about)
    diagnosed = diagnosis.at_s - since if diagnosis else None
    well = stage.well_again(back)
    recovered = well.at_s - back if well else None
    bad = any(s.status is not Status.OK for s in stage.participant.between(since, back))
    return Finding(
        name,
        diagnosis.message if diagnosis else f"{node} does not report {about}",
        stage.noticed(since) if bad else None,
        recovered,
        0,
        within(diagnosed, LOOKED_AT_WITHIN_S) and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )
