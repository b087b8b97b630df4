# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The key-frame gate and the temporal state on drives and on scenes that stand still.

Gate: against a full analysis at each tick, and against a gate that is blind, an analysis at every
n-th tick, at no less cost. Tags: the attended state beside an exponential average and plain
hysteresis, each at the setting with the fewest flips that is no later than the attention, by the
95th percentile of the delay and by the share of late changes; these settings are chosen on the very
sequences of the comparison, which favours them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle import ModelBundle
from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.flicker import (
    Flags,
    Steadiness,
    exponential_average,
    steadiness,
    with_hysteresis,
)
from vlm_perception.evaluation.gating import (
    GateFigures,
    TruthFigures,
    against_truth,
    events,
    found_at,
    held,
    judge,
    key_frames,
)
from vlm_perception.evaluation.sequences import DRIVE, STATIC, TICK_HZ, Recording, record
from vlm_perception.perception.keyframes import KeyframeSettings
from vlm_perception.perception.temporal import DEAD_BAND, TemporalState
from vlm_perception.perception.vocabulary import Vocabulary, VocabularyBuilder

FIRST_SEED = 30_000_000
"""Nothing was trained on these sequences, and no setting was chosen on them."""
SETTINGS = KeyframeSettings()

PER_FRAME, ATTENTION, EMA, HYSTERESIS = "per_frame", "cross_attention", "ema", "hysteresis"
ATTENTION_ALONE = "cross_attention_without_band"
EMA_BAND = "ema_with_band"
FROZEN = "frozen"
SHARES = tuple(np.arange(0.2, 1.0, 0.05).round(2).tolist())
BANDS = tuple(np.arange(0.1, 2.55, 0.1).round(2).tolist())


class SequenceError(ValueError):
    """The bundle cannot be examined on road-world sequences."""


def evaluate_temporal(
    bundle: str, drives: int, scenes: int, seconds: float, out: Path, json_file: Path | None = None
) -> dict[str, object]:
    """Record the sequences, compare gates and filters, print tables and return the figures.

    Args:
        bundle: name or directory of a road-world bundle with a language part.
        drives: how many drives.
        scenes: how many scenes that stand still while the camera's exposure hunts.
        seconds: length of each.
        out: folder that keeps the recordings; a run that was broken off goes on there.
        json_file: takes the figures.

    Raises:
        BundleError: the bundle cannot be used.
        SequenceError: it is no road-world bundle.
    """
    model = ModelBundle.load(bundle)
    kinds = [
        (DRIVE, range(FIRST_SEED, FIRST_SEED + drives)),
        (STATIC, range(FIRST_SEED, FIRST_SEED + scenes)),
    ]
    _check(model)
    recordings = record(model, kinds, seconds, out)
    vocabulary = VocabularyBuilder(model).build(LABELS, version=1)
    moving = _Tags.read(recordings[DRIVE], vocabulary)
    still = _Tags.read(recordings[STATIC], vocabulary)
    gate_figures, gate_tables = _gates(recordings, moving, still)
    tag_figures, tag_table = _filters(moving, still)
    figures = gate_figures | tag_figures
    figures |= {
        "drives": drives,
        "scenes": scenes,
        "seconds": seconds,
        "bundle_digest": model.digest,
    }
    console = Console()
    for table in (*gate_tables, tag_table):
        console.print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(_finite(figures), indent=2) + "\n", encoding="utf-8")
        console.print(f"Written to {json_file}")
    return figures


def _check(model: ModelBundle) -> None:
    known = {spec.label for spec in model.manifest.vocabulary.labels}
    if model.manifest.language is None or not set(LABELS) <= known:
        raise SequenceError(
            f"bundle {model.manifest.name} is no road-world bundle: this needs a language model "
            f"and the labels {', '.join(LABELS)}"
        )


@dataclass(frozen=True)
class _Tags:
    """The tags of some sequences: what is true, and the log-odds beyond each label's threshold."""

    truths: list[Flags]
    plain: list[NDArray[np.float32]]
    """[T, labels], of each frame alone."""
    attended: list[NDArray[np.float32]]
    """[T, labels], of the attended state."""

    @classmethod
    def read(cls, recordings: Sequence[Recording], vocabulary: Vocabulary) -> _Tags:
        return cls(
            [recording.shares >= PRESENT_SHARE for recording in recordings],
            [vocabulary.margins(vocabulary.probabilities(r.pooled)) for r in recordings],
            [vocabulary.margins(vocabulary.probabilities(_attend(r.pooled))) for r in recordings],
        )

    def steady(self) -> list[Flags]:
        """The tags as the encoder publishes them."""
        return [with_hysteresis(each, DEAD_BAND) for each in self.attended]


def _attend(pooled: NDArray[np.float32]) -> NDArray[np.float32]:
    state = TemporalState(pooled.shape[1])
    stamps = (round((1.0 + tick / TICK_HZ) * 1e9) for tick in range(len(pooled)))
    return np.stack([state.attend(each, at) for each, at in zip(pooled, stamps, strict=True)])


def _gates(
    recordings: dict[str, list[Recording]], moving: _Tags, still: _Tags
) -> tuple[dict[str, object], list[Table]]:
    drives = recordings[DRIVE]
    happened = events(drives)
    chosen = _choose(drives, moving)
    gate = judge(drives, chosen, happened)
    every = max(1, int(1.0 / max(1e-9, 1.0 - gate.analyses_saved)))
    blind = judge(drives, [np.arange(len(c)) % every == 0 for c in chosen], happened)
    standing = judge(recordings[STATIC], _choose(recordings[STATIC], still), [])
    ungated = against_truth(drives, [r.answers for r in drives], happened)
    answers = [held(r, c) for r, c in zip(drives, chosen, strict=True)]
    gated = against_truth(drives, answers, happened)
    hits = [found_at(answers[event.sequence], event) is not None for event in happened]
    rows = {
        "key frames": gate,
        f"every {every}th tick": blind,
        "key frames, scenes that stand still": standing,
    }
    figures = asdict(gate) | {
        "event_recall_truth": float(np.mean(hits)) if hits else float("nan"),
        "events": len(happened),
        "blind_gate": asdict(blind) | {"every": every},
        "static_gate": asdict(standing),
        "truth_ungated": [asdict(row) for row in ungated],
        "truth_gated": [asdict(row) for row in gated],
    }
    return figures, [_gate_table(rows, len(happened)), _truth_table(ungated, gated)]


def _choose(recordings: Sequence[Recording], tags: _Tags) -> list[Flags]:
    return [
        key_frames(recording, steady, LABELS, SETTINGS)
        for recording, steady in zip(recordings, tags.steady(), strict=True)
    ]


def _filters(moving: _Tags, still: _Tags) -> tuple[dict[str, object], Table]:
    """Every way of reading tags, on drives and on scenes that stand still."""
    reads: dict[str, Callable[[_Tags], list[Flags]]] = {
        PER_FRAME: lambda tags: [each >= 0.0 for each in tags.plain],
        ATTENTION: _Tags.steady,
    }
    shipped = _judge_tags(reads[ATTENTION], moving)
    sweeps: dict[str, tuple[tuple[float, ...], Callable[[float], Callable[[_Tags], list[Flags]]]]]
    sweeps = {
        EMA: (SHARES, lambda share: lambda tags: _ema(tags, share, 0.0)),
        HYSTERESIS: (
            BANDS,
            lambda band: lambda tags: [with_hysteresis(each, band) for each in tags.plain],
        ),
        EMA_BAND: (SHARES, lambda share: lambda tags: _ema(tags, share, DEAD_BAND)),
    }
    settings = {}
    for name, (values, make) in sweeps.items():
        judged = {value: _judge_tags(make(value), moving) for value in values}
        settings[name] = _as_quick_as(shipped, judged)
        reads[name] = make(settings[name])
    reads[ATTENTION_ALONE] = lambda tags: [each >= 0.0 for each in tags.attended]
    reads[FROZEN] = lambda tags: [np.repeat(each[:1] >= 0.0, len(each), 0) for each in tags.plain]
    drives = {name: _judge_tags(read, moving) for name, read in reads.items()}
    scenes = {name: _judge_tags(read, still) for name, read in reads.items()}
    figures: dict[str, object] = {
        "flip_reduction": _reductions(drives),
        "flip_reduction_static": _reductions(scenes),
        "tag_accuracy": {name: row.accuracy for name, row in drives.items()},
        "tag_accuracy_static": {name: row.accuracy for name, row in scenes.items()},
        "change_recall": {name: row.change_recall for name, row in drives.items()},
        "added_delay_ticks_p50": {name: row.delay_p50 for name, row in drives.items()},
        "added_delay_ticks_p95": {name: row.delay_p95 for name, row in drives.items()},
        "late_changes": {name: row.late for name, row in drives.items()},
        "flips": {name: row.flips for name, row in drives.items()},
        "filter_settings": settings,
    }
    return figures, _filter_table(drives, scenes, settings)


def _as_quick_as(shipped: Steadiness, judged: dict[float, Steadiness]) -> float:
    """The setting with the fewest flips that is no later; without any, the least late one."""
    quick = {
        value: row.flips
        for value, row in judged.items()
        if row.delay_p95 <= shipped.delay_p95 and row.late <= shipped.late
    }
    if quick:
        return min(quick, key=lambda value: quick[value])
    return min(judged, key=lambda value: (judged[value].delay_p95, judged[value].late))


def _ema(tags: _Tags, share: float, band: float) -> list[Flags]:
    return [with_hysteresis(exponential_average(each, share), band) for each in tags.plain]


def _judge_tags(read: Callable[[_Tags], list[Flags]], tags: _Tags) -> Steadiness:
    return steadiness(read(tags), tags.truths, [each >= 0.0 for each in tags.plain])


def _reductions(rows: dict[str, Steadiness]) -> dict[str, float]:
    most = rows[PER_FRAME].flips
    return {name: 1.0 - row.flips / most if most else 0.0 for name, row in rows.items()}


def _gate_table(rows: dict[str, GateFigures], count: int) -> Table:
    table = Table(title=f"Gate, against a full analysis at each tick ({count} events)")
    for heading in (
        "gate", "analyses saved", "event recall", "by any tick", "accuracy loss, points",
        "delay p50, ticks", "p95",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "gate" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row.analyses_saved:.1%}",
            f"{row.event_recall:.1%}",
            f"{row.event_recall_any_tick:.1%}",
            f"{row.accuracy_loss:+.2f}",
            f"{row.delay_ticks_p50:.1f}",
            f"{row.delay_ticks_p95:.1f}",
        )
    return table


def _truth_table(ungated: Sequence[TruthFigures], gated: Sequence[TruthFigures]) -> Table:
    distances = tuple(ungated[0].by_distance)
    table = Table(
        "event", "events", "answers", "recall", "delay p50, s", "p95", *distances,
        title="Answers against the ground truth; by distance: share of the ticks that are right",
    )  # fmt: skip
    for kinds in zip(ungated, gated, strict=True):
        for words, row in zip(("each tick", "key frames"), kinds, strict=True):
            table.add_row(
                row.event,
                str(row.events),
                words,
                f"{row.recall:.1%}",
                f"{row.delay_s_p50:.1f}",
                f"{row.delay_s_p95:.1f}",
                *(f"{row.by_distance[each]:.1%}" for each in distances),
            )
    return table


def _filter_table(
    drives: dict[str, Steadiness], scenes: dict[str, Steadiness], settings: dict[str, float]
) -> Table:
    table = Table(title="Tags: flips outside true changes, and what the steadiness costs")
    for heading in (
        "reading", "setting", "flips", "fewer", "accuracy", "changes found", "delay p50, ticks",
        "p95", "late", "standing still: fewer", "accuracy",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "reading" else "right")
    fewer, fewer_still = _reductions(drives), _reductions(scenes)
    for name, row in drives.items():
        table.add_row(
            name,
            f"{settings[name]:g}" if name in settings else "",
            str(row.flips),
            f"{fewer[name]:.1%}",
            f"{row.accuracy:.2%}",
            f"{row.change_recall:.1%}",
            f"{row.delay_p50:.1f}",
            f"{row.delay_p95:.1f}",
            f"{row.late:.1%}",
            f"{fewer_still[name]:.1%}",
            f"{scenes[name].accuracy:.2%}",
        )
    return table


def _finite(value: object) -> object:
    """The same figures with None for what could not be measured: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
