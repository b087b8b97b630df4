# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What captions and answers lose by fewer tokens of an image, for each kind of bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.evaluation.compression.times import Times
from vlm_perception.evaluation.distillation.arm import bounds, gather, range_of, retention
from vlm_perception.evaluation.distillation.seeds import BySeed, Interval, interval
from vlm_perception.evaluation.distillation.study import SeededRun
from vlm_perception.evaluation.distillation.words import ANSWERS, CAPTIONS, CHANCE
from vlm_perception.evaluation.report import figure_table

BARS = {24: 0.965, 12: 0.9}
"""Tokens -> what the best bridge should keep of captions and answers."""


@dataclass(frozen=True)
class BridgeRow:
    """A bridge of one kind and number of tokens."""

    kind: str
    tokens: int
    figures: Mapping[str, Interval]
    """Of captions and answers, as they are."""
    kept: Mapping[str, Interval]
    """The same as a share of the reference's, corrected for chance."""
    times: Times

    @property
    def retention(self) -> Interval:
        """What is kept of the one that lost more."""
        return min(self.kept.values(), key=lambda each: each.value)


def is_reference(run: SeededRun) -> bool:
    """Whether a run's decoder reads all tokens, through LLaVA's own projector."""
    language = run.recipe.language
    return language is not None and language.bridge.kind == "mlp" and language.bridge.tokens is None


def bridge_rows(
    arms: Sequence[Sequence[SeededRun]],
    bundles: Mapping[str, ModelBundle],
    figures: Mapping[str, Mapping[str, BySeed]],
    times: Mapping[str, Times],
) -> list[BridgeRow]:
    """A row for each arm, the one with all tokens first.

    Args:
        arms: the seeds of each.
        bundles: by the names of runs.
        figures: of captions and answers, by the names of runs.
        times: by the names of runs.
    """
    reference = next(arm for arm in arms if any(map(is_reference, arm)))
    rows = []
    for arm in sorted(arms, key=lambda arm: (arm is not reference, *_order(arm[0], bundles))):
        bundle = bundles[arm[0].name]
        language = arm[0].recipe.language
        assert language is not None
        found, kept = {}, {}
        for what in (CAPTIONS, ANSWERS):
            ours, theirs = (gather(each, figures[what]) for each in (arm, reference))
            found[what] = interval(ours.figure)
            kept[what] = interval(retention(ours, theirs, figures[what][CHANCE]))
        rows.append(
            BridgeRow(language.bridge.kind, _tokens(bundle), found, kept, times[arm[0].name])
        )
    return rows


def _order(run: SeededRun, bundles: Mapping[str, ModelBundle]) -> tuple[int, str]:
    return -_tokens(bundles[run.name]), run.recipe.name


def _tokens(bundle: ModelBundle) -> int:
    assert bundle.manifest.language is not None
    return bundle.manifest.language.image_tokens


@dataclass(frozen=True)
class Bar:
    """Whether the best bridge of so many tokens keeps enough."""

    tokens: int
    bar: float
    best: str
    reached: bool


def bars(rows: Sequence[BridgeRow]) -> list[Bar]:
    """Each number of tokens that has a bar and a bridge."""
    found = []
    for tokens, bar in BARS.items():
        among = [row for row in rows if row.tokens == tokens]
        if among:
            best = max(among, key=lambda row: row.retention.value)
            found.append(Bar(tokens, bar, best.kind, best.retention.value >= bar))
    return found


def as_json(rows: Sequence[BridgeRow]) -> list[dict[str, object]]:
    """The rows by their keys."""
    return [
        {
            "kind": row.kind,
            "tokens": row.tokens,
            **bounds("retention", row.retention),
            **{what: found.value for what, found in row.figures.items()},
            **{
                key: value
                for what, kept in row.kept.items()
                for key, value in bounds(f"{what}_retention", kept).items()
            },
            "prefill_ms": row.times.prefill,
            "analysis_ms": row.times.analysis,
        }
        for row in rows
    ]


def table(rows: Sequence[BridgeRow], scenes: int) -> Table:
    """The same for people."""
    shown = figure_table(
        f"Bridges from the tower to the decoder, on {scenes} unseen scenes",
        "kind", "tokens", "captions", "answers", "kept", "95 %", "prefill", "all",
        caption=(
            "Captions: F1 of the objects named; answers: balanced accuracy. Kept: of the one that "
            "lost more, corrected for chance, relative to the first row. Milliseconds for prefill, "
            "and for prefill, all typed questions and the caption: one thread of "
            f"{cpu_model()}, {cpu_count()} cores"
        ),
    )  # fmt: skip
    for number, row in enumerate(rows):
        kept = [f"{row.retention.value:.3f}", range_of(row.retention, 3)] if number else ["", ""]
        shown.add_row(
            row.kind,
            str(row.tokens),
            f"{row.figures[CAPTIONS].value:.3f}",
            f"{row.figures[ANSWERS].value:.3f}",
            *kept,
            f"{row.times.prefill:.1f}",
            f"{row.times.analysis:.1f}",
        )
    return shown


def sentences(found: Sequence[Bar]) -> list[str]:
    """The bars for people."""
    return [
        f"{each.tokens} tokens: the best bridge is {each.best}; {each.bar:.1%} of captions and "
        f"answers should be kept: {'reached' if each.reached else 'not reached'}"
        for each in found
    ]
