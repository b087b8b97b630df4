# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `evaluate temporal` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from vlm_perception.evaluation.report import figure_table
from vlm_perception.evaluation.temporal.baselines import Comparison, reductions
from vlm_perception.evaluation.temporal.keyframe_gate import GateFigures, TruthFigures


def gate_table(rows: Mapping[str, GateFigures], count: int) -> Table:
    """Gates against a full analysis at each tick."""
    table = figure_table(
        f"Key-frame policy, compared with a full analysis on each tick, read by attention ({count} "
        "events)",
        "gate", "analyses saved", "event recall", "by any tick", "accuracy loss, points",
        "delay p50, ticks", "p95",
    )  # fmt: skip
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


def truth_table(kinds: Mapping[str, Sequence[TruthFigures]]) -> Table:
    """Answers against the ground truth, for each way of coming to them."""
    distances = tuple(next(iter(kinds.values()))[0].by_distance)
    table = Table(
        "event", "events", "answers", "recall", "delay p50, s", "p95", *distances,
        title="Answers compared with the ground truth; by distance: share of correct ticks",
    )  # fmt: skip
    for rows in zip(*kinds.values(), strict=True):
        for words, row in zip(kinds, rows, strict=True):
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


def baselines_table(title: str, comparison: Comparison) -> Table:
    """Ways of reading tags or answers."""
    table = figure_table(
        f"{title}: flips outside true changes, and what the stability costs",
        "reading", "setting", "flips", "fewer", "accuracy", "changes found", "delay p50, ticks",
        "p95", "late", "static: fewer", "accuracy",
    )  # fmt: skip
    fewer, fewer_still = reductions(comparison.drives), reductions(comparison.scenes)
    for name, row in comparison.drives.items():
        setting = comparison.settings.get(name)
        table.add_row(
            name,
            "" if setting is None else f"{setting:g}",
            str(row.flips),
            f"{fewer[name]:.1%}",
            f"{row.accuracy:.2%}",
            f"{row.change_recall:.1%}",
            f"{row.delay_p50:.1f}",
            f"{row.delay_p95:.1f}",
            f"{row.late:.1%}",
            f"{fewer_still[name]:.1%}",
            f"{comparison.scenes[name].accuracy:.2%}",
        )
    return table
