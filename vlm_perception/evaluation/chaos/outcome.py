# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of most faults: a scene tells of it, a node diagnoses it, and it is overcome."""

from __future__ import annotations

from vlm_perception.evaluation.chaos.finding import (
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.stage import Stage


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
        "; ".join(filter(None, (stage.told(since_s), seen))),
        noticed,
        recovered,
        lost,
        ok
        and within(noticed, NOTICED_WITHIN_S)
        and within(diagnosed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )
