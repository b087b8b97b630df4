# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Ways of reading tags and answers over time, side by side.

An exponential average and plain hysteresis are compared with the attention, each at the setting
with the fewest flips that is no later than the attention, by the 95th percentile of the delay and
by the share of late changes. These settings are chosen on the very sequences of the comparison,
which favours them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, QUESTIONS
from vlm_perception.evaluation.temporal.flicker import (
    Flags,
    Steadiness,
    exponential_average,
    steadiness,
    with_hysteresis,
)
from vlm_perception.evaluation.temporal.keyframe_gate import recalled
from vlm_perception.evaluation.temporal.sequences import Recording, likeliest
from vlm_perception.perception.vision.temporal_state import DEAD_BAND, Attended
from vlm_perception.perception.vision.vocabulary import Vocabulary

PER_FRAME, ATTENTION, EMA, HYSTERESIS = "per_frame", "cross_attention", "ema", "hysteresis"
TRAINING_FREE, TRAINED = "cross_attention_training_free", "cross_attention_trained"
WITHOUT_BAND, EMA_BAND, FROZEN = "cross_attention_without_band", "ema_with_band", "frozen"
SHARES = tuple(np.arange(0.1, 1.0, 0.05).round(2).tolist())
BANDS = tuple(np.arange(0.1, 2.55, 0.1).round(2).tolist())
LEADS = tuple(np.arange(0.05, 1.0, 0.05).round(2).tolist())

Readings = list[Flags]
Sweep = tuple[tuple[float, ...], Callable[[float], Readings]]


@dataclass(frozen=True)
class Material:
    """Sequences with the truth and every way of reading them, as flags [T, N] of each sequence."""

    truths: Readings
    fixed: Mapping[str, Readings]
    """What has no setting."""
    sweeps: Mapping[str, Sweep]
    """What has one: its values, and the readings at a value."""

    def judge(self, readings: Readings) -> Steadiness:
        """Figures of one way."""
        return steadiness(readings, self.truths, self.fixed[PER_FRAME])


@dataclass(frozen=True)
class Comparison:
    """All baselines on drives and on static scenes."""

    drives: dict[str, Steadiness]
    scenes: dict[str, Steadiness]
    settings: dict[str, float]

    def figures(self) -> dict[str, object]:
        """For JSON."""
        rows = self.drives.items()
        return {
            "flip_reduction": reductions(self.drives),
            "flip_reduction_static": reductions(self.scenes),
            "flips": {name: row.flips for name, row in rows},
            "accuracy": {name: row.accuracy for name, row in rows},
            "accuracy_static": {name: row.accuracy for name, row in self.scenes.items()},
            "change_recall": {name: row.change_recall for name, row in rows},
            "added_delay_ticks_p50": {name: row.delay_p50 for name, row in rows},
            "added_delay_ticks_p95": {name: row.delay_p95 for name, row in rows},
            "late_changes": {name: row.late for name, row in rows},
            "filter_settings": self.settings,
        }


def compare(moving: Material, still: Material) -> Comparison:
    """Choose the settings of the baselines on the drives, and judge every way."""
    drives = {name: moving.judge(readings) for name, readings in moving.fixed.items()}
    scenes = {name: still.judge(readings) for name, readings in still.fixed.items()}
    settings = {}
    for name, (values, make) in moving.sweeps.items():
        judged = {value: moving.judge(make(value)) for value in values}
        settings[name] = _as_quick_as(drives[ATTENTION], judged)
        drives[name] = judged[settings[name]]
        scenes[name] = still.judge(still.sweeps[name][1](settings[name]))
    return Comparison(drives, scenes, settings)


def reductions(rows: Mapping[str, Steadiness]) -> dict[str, float]:
    """Share of the flips of the reading frame by frame that each way avoids."""
    most = rows[PER_FRAME].flips
    return {name: 1.0 - row.flips / most if most else 0.0 for name, row in rows.items()}


def tag_material(
    recordings: Sequence[Recording],
    vocabulary: Vocabulary,
    trained: Sequence[Sequence[Attended]],
    free: Sequence[Sequence[Attended]],
) -> Material:
    """Tags: flags are labels. The encoder reads them by the training-free form.

    Args:
        recordings: the sequences.
        vocabulary: their labels.
        trained: the attended states of each sequence, of the form that the bundle has.
        free: of the training-free form.
    """
    plain = [vocabulary.margins(vocabulary.probabilities(each.pooled)) for each in recordings]
    attended = [_margins(each, vocabulary) for each in free]

    def average(share: float, band: float) -> Readings:
        return [with_hysteresis(exponential_average(each, share), band) for each in plain]

    return Material(
        truths=[each.shares >= PRESENT_SHARE for each in recordings],
        fixed={
            PER_FRAME: [each >= 0.0 for each in plain],
            ATTENTION: steady_tags(free, vocabulary),
            TRAINED: steady_tags(trained, vocabulary),
            WITHOUT_BAND: [each >= 0.0 for each in attended],
            FROZEN: [np.repeat(each[:1] >= 0.0, len(each), 0) for each in plain],
        },
        sweeps={
            EMA: (SHARES, lambda share: average(share, 0.0)),
            HYSTERESIS: (BANDS, lambda band: [with_hysteresis(each, band) for each in plain]),
            EMA_BAND: (SHARES, lambda share: average(share, DEAD_BAND)),
        },
    )


def steady_tags(states: Sequence[Sequence[Attended]], vocabulary: Vocabulary) -> Readings:
    """The tags as the encoder publishes them."""
    return [with_hysteresis(_margins(each, vocabulary), DEAD_BAND) for each in states]


def answer_material(
    recordings: Sequence[Recording],
    trained: Sequence[Sequence[Attended]],
    free: Sequence[Sequence[Attended]],
) -> Material:
    """Answers, with an analysis at each tick: flags are choices, one of each question holds."""
    plain = [each.probabilities for each in recordings]
    attended, untrained = (
        [
            one_hot(likeliest(recalled(each, seen, np.ones(len(seen), np.bool_))))
            for each, seen in zip(recordings, states, strict=True)
        ]
        for states in (trained, free)
    )
    predicted = [one_hot(likeliest(each)) for each in plain]
    return Material(
        truths=[one_hot(each.truths) for each in recordings],
        fixed={
            PER_FRAME: predicted,
            ATTENTION: attended,
            TRAINING_FREE: untrained,
            FROZEN: [np.repeat(each[:1], len(each), 0) for each in predicted],
        },
        sweeps={
            EMA: (
                SHARES,
                lambda share: [one_hot(likeliest(exponential_average(p, share))) for p in plain],
            ),
            HYSTERESIS: (LEADS, lambda lead: [one_hot(with_lead(p, lead)) for p in plain]),
        },
    )


def one_hot(answers: NDArray[np.int64]) -> Flags:
    """Answers, [T, questions], as flags [T, choices] of all questions side by side."""
    sizes = [len(choices) for _, choices in QUESTIONS.values()]
    return np.concatenate(
        [answers[:, i : i + 1] == np.arange(size) for i, size in enumerate(sizes)], axis=1
    )


def with_lead(probabilities: NDArray[np.float32], lead: float) -> NDArray[np.int64]:
    """Hysteresis for answers: another choice must be likelier by `lead` to take over."""
    sizes = [len(choices) for _, choices in QUESTIONS.values()]
    columns = []
    for part in np.split(probabilities, np.cumsum(sizes)[:-1], axis=1):
        predicted = np.empty(len(part), np.int64)
        predicted[0] = part[0].argmax()
        for tick in range(1, len(part)):
            best, held = int(part[tick].argmax()), predicted[tick - 1]
            predicted[tick] = best if part[tick, best] - part[tick, held] > lead else held
        columns.append(predicted)
    return np.stack(columns, axis=1)


def _margins(states: Sequence[Attended], vocabulary: Vocabulary) -> NDArray[np.float32]:
    stacked = np.stack([each.state for each in states])
    return vocabulary.margins(vocabulary.probabilities(stacked))


def _as_quick_as(shipped: Steadiness, judged: Mapping[float, Steadiness]) -> float:
    """The setting with the fewest flips that is no later; without any, the least late one."""
    quick = {
        value: row.flips
        for value, row in judged.items()
        if row.delay_p95 <= shipped.delay_p95 and row.late <= shipped.late
    }
    if quick:
        return min(quick, key=lambda value: quick[value])
    return min(judged, key=lambda value: (judged[value].delay_p95, judged[value].late))
