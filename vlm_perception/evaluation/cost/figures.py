# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an image costs, from the times of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]
"""What was measured of one image, in milliseconds, for JSON: `image`; `encoder_ms`; and where the
bundle has a language model `tower_ms` (of its own vision tower, 0 without one), `prefill_ms`,
`questions_ms` (all typed questions) and `decode_ms` (the caption, its prompt included), and
`caption_tokens`."""

STEPS = ("encoder_ms", "tower_ms", "prefill_ms", "decode_ms")
"""Those that `total_ms` is the sum of: from the image to the end of its caption."""
TIMES = (*STEPS, "questions_ms", "total_ms")


def figures(records: Sequence[Record]) -> dict[str, float]:
    """Medians under the names of the steps, and 95th percentiles under `..._p95`.

    NaN for the steps of a language model where there is none.
    """
    found: dict[str, float] = {}
    for name in TIMES:
        times = [_time(record, name) for record in records]
        found[name], found[f"{name}_p95"] = map(float, np.percentile(times, (50, 95)))
    found["caption_tokens"] = float(
        np.median([record.get("caption_tokens", np.nan) for record in records])
    )
    return found


def _time(record: Record, name: str) -> float:
    if name != "total_ms":
        return float(record.get(name, np.nan))
    return sum(float(record.get(step, 0.0)) for step in STEPS)
