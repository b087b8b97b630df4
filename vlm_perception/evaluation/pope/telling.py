# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How POPE's figures are shown: tables, the target, and what the sets are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from vlm_perception.evaluation.pope.metrics import FIGURES, MEAN, TARGET_F1, Record
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.report import figure_table

BY_LIKELIHOOD, FREE_TEXT = "by likelihood", "by free text"

Figures = Mapping[str, Mapping[str, float]]
"""By set and their mean, then by name."""


def table(title: str, found: Figures) -> Table:
    """The figures of each set and their means; a dash where one is undefined."""
    neither = "neither" in found[MEAN]
    headings = [figure.replace("_", " ").replace("f1", "F1") for figure in FIGURES]
    caption = "neither: silence and the like, which count as yes" if neither else None
    rest = ["neither"] if neither else []
    shown = figure_table(title, "negatives", *headings, *rest, caption=caption)
    for split in (*SPLITS, MEAN):
        if split == MEAN:
            shown.add_section()
        cells = [_number(found[split][figure]) for figure in FIGURES]
        shown.add_row(split, *cells, *(_number(found[split][name], "g") for name in rest))
    return shown


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def verdict(kinds: Mapping[str, Figures]) -> str:
    """Whether the mean F1 is above the target, for each way of answering."""
    parts = []
    for kind, found in kinds.items():
        f1 = found[MEAN]["f1"]
        if math.isnan(f1):
            parts.append(f"{kind} undefined")
        else:
            parts.append(f"{kind} {'reached' if f1 > TARGET_F1 else 'missed'} ({f1:.4f})")
    return f"Target, mean F1 > {TARGET_F1}: {', '.join(parts)}"


def described(
    records: Sequence[Record], name: str, versions: Mapping[str, str]
) -> dict[str, object]:
    """What was asked, by JSON keys."""
    questions = Counter(record.split for record in records)
    return {
        "target_f1": TARGET_F1,
        "images": len({record.image for record in records}),
        "sets": [
            {"name": name, "version": version, "split": split, "questions": questions[split]}
            for split, version in versions.items()
        ],
    }
