# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How steady a sequence of tags is, and what that costs: flips, accuracy, recall and delay.

A flip is a label that changes from one tick to the next. True changes excuse one flip each, the one
that reports the change; all others are flicker. Few flips alone mean little, since a frozen output
has none: it misses the changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]

LASTING_TICKS = 3
"""A reading has found a change once it lasts this long: a blip does not count."""
LASTING_CHANGE_TICKS = 5
"""Delay and recall cover true changes that last at least this long."""

LATE_TICKS = 3


@dataclass(frozen=True)
class Change:
    """A true change of one label: from `at` on it has `value`, up to `until` (exclusive)."""

    since: int
    """First tick of the stretch before, with the other value."""
    at: int
    until: int
    value: bool


@dataclass(frozen=True)
class Steadiness:
    """Figures of one way of reading tags, over all sequences."""

    flips: int
    """Outside true changes."""
    accuracy: float
    """Share of ticks and labels that are right."""
    change_recall: float
    """Share of the lasting true changes that are found before the next one."""
    delay_p50: float
    """Ticks later than the reading frame by frame; what that did not find does not count. A change
    that is missed counts as found when the next one comes."""
    delay_p95: float
    late: float
    """Share of the changes that come more than LATE_TICKS later: whole ticks alone are coarse."""


def changes(truth: Flags) -> Iterator[Change]:
    """The changes of one label, [T]."""
    edges = [0, *(np.flatnonzero(truth[1:] != truth[:-1]) + 1).tolist(), len(truth)]
    for since, at, until in zip(edges, edges[1:], edges[2:], strict=False):
        yield Change(since, at, until, bool(truth[at]))


def onset(reading: Flags, change: Change) -> int | None:
    """Tick from which a reading, [T], has a change, or None when it has missed it.

    It is the begin of the first lasting stretch with the new value that covers the change or
    follows it. It may precede the change: an approaching object may be detected before or after the
    ground truth counts it as large enough.
    """
    needed = min(LASTING_TICKS, change.until - change.at)
    begin = change.at
    while begin > change.since and reading[begin] == reading[begin - 1] == change.value:
        begin -= 1
    while begin < change.until:
        end = begin
        while end < change.until and reading[end] == change.value:
            end += 1
        if end - begin >= needed:
            return begin
        begin = end + 1
    return None


def steadiness(
    readings: Sequence[Flags], truths: Sequence[Flags], frame_by_frame: Sequence[Flags]
) -> Steadiness:
    """Judge readings, [T, labels] for each sequence, against the truth and the plainest reading."""
    flips, found, lasting, delays, right = 0, 0, 0, [], []
    for reading, truth, plain in zip(readings, truths, frame_by_frame, strict=True):
        right.append(float((reading == truth).mean()))
        flips += int((reading[1:] != reading[:-1]).sum())
        for label in range(truth.shape[1]):
            predicted, plainly = reading[:, label], plain[:, label]
            for change in changes(truth[:, label]):
                at = onset(predicted, change)
                flips -= at is not None and at > 0 and bool(predicted[at - 1] != predicted[at])
                if change.until - change.at < LASTING_CHANGE_TICKS:
                    continue
                lasting += 1
                found += at is not None
                plain_at = onset(plainly, change)
                if plain_at is not None:
                    delays.append((change.until if at is None else at) - plain_at)
    return Steadiness(
        flips=flips,
        accuracy=float(np.mean(right)),
        change_recall=found / lasting if lasting else float("nan"),
        delay_p50=float(np.median(delays)) if delays else 0.0,
        delay_p95=float(np.quantile(delays, 0.95)) if delays else 0.0,
        late=float(np.mean(np.array(delays) > LATE_TICKS)) if delays else 0.0,
    )


def exponential_average(log_odds: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Average over the past, [T, labels], in which each tick has `share` and the rest the past."""
    averaged = log_odds.copy()
    for tick in range(1, len(averaged)):
        averaged[tick] = share * log_odds[tick] + (1.0 - share) * averaged[tick - 1]
    return averaged


def with_hysteresis(log_odds: NDArray[np.float32], band: float) -> Flags:
    """Labels, [T, labels], that appear above the band and vanish below it.

    Args:
        log_odds: beyond each label's threshold.
        band: half its width.
    """
    present = np.empty(log_odds.shape, np.bool_)
    present[0] = log_odds[0] >= 0.0
    for tick in range(1, len(present)):
        present[tick] = log_odds[tick] >= np.where(present[tick - 1], -band, band)
    return present
