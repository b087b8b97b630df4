# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of judged texts as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from vlm_perception.evaluation.judge.figures import SCORES, Kind
from vlm_perception.evaluation.report import figure_table

ALL = "all"


def result_table(result: Mapping[str, Any], kind: Kind, bundles: Sequence[str]) -> Table:
    """The figures of all questions, and by language where there are several.

    Args:
        result: of `figures`.
        kind: what it is of.
        bundles: their names.
    """
    spread = "in parentheses 95 %, by bootstrap over the images"
    if kind is Kind.SCORES:
        table = figure_table(
            f"Texts of {bundles[0]}, rated from 1 to 5",
            *("language", "score", *map(str, SCORES), "judged", "failed"),
            caption=f"1 to 5: share of the ratings; {spread}",
        )
    else:
        table = figure_table(
            f"Texts of {bundles[0]} against those of {bundles[1]}",
            *("language", "preferred", "wins", "ties", "losses", "judged", "failed"),
            caption=f"preferred: how far {bundles[0]} is, from 0 to 1, where 0.5 is even; {spread}",
        )
    for language, part in languages(result):
        cells = [""] * (len(table.columns) - 3)
        if part["judged"]:
            name = "score" if kind is Kind.SCORES else "preferred"
            low, high = part[f"{name}_low"], part[f"{name}_high"]
            shares = (
                part["shares"].values()
                if kind is Kind.SCORES
                else [part[each] for each in ("wins", "ties", "losses")]
            )
            cells = [f"{part[name]:.2f} ({low:.2f} to {high:.2f})", *(f"{x:.2f}" for x in shares)]
        table.add_row(language, *cells, str(part["judged"]), str(part["failed"]))
    return table


def figure_notes(result: Mapping[str, Any], kind: Kind, equal: int) -> list[str]:
    """What else is to be said of a judge's figures.

    Args:
        result: of `figures`.
        kind: what it is of.
        equal: in how many pairs both texts are the same.
    """
    if "position_bias" not in result:
        return []
    low, high = result["position_bias_low"], result["position_bias_high"]
    spread = "95 % interval not known" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
    told = f"{equal} pairs are of equal texts: they count as ties, and were not judged"
    return [
        *([told] if equal else []),
        f"Position bias: in {result['position_bias']:.3f} of the pairs ({spread}) "
        f"the verdict follows the position: in {result['first']:.3f} the text that stands first is "
        f"preferred in both orders, in {result['second']:.3f} the one that stands second",
    ]


def languages(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """All questions, and those of each language where there are several."""
    alone = result["by_language"]
    return [(ALL, result), *(alone.items() if len(alone) > 1 else [])]
