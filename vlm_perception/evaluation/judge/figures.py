# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How good texts are, from what a judge or people said of each: no model and no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from vlm_perception.evaluation.comparison.bootstrap import estimate
from vlm_perception.evaluation.comparison.scored import Array, Counted, ratio

SCORES = range(1, 6)
_SCALES = {"score": (float(SCORES[0]), float(SCORES[-1]))}
EVEN = 0.5
"""How far the first of two bundles is preferred: from 0 to 1, and this where neither is."""


class Kind(str, Enum):
    """What was asked about each text."""

    SCORES = "scores"
    PAIRS = "pairs"


POSITIONS = ("first", "second")
"""Of the text that is the better one, wherever it is from."""

Record = Mapping[str, Any]
"""What was said of the texts about one question, for JSON: `image`, `question`, `language`, and

* of scores `scores`: one from 1 to 5 for each rating;
* of pairs `preference`: 1, EVEN or 0 for each rating; and `position`, the one that was chosen in
  both orders, whichever text stood there (else None), where both orders were asked about.

A record of what could not be judged has none of these, and `failure` says why."""


def figures(records: Sequence[Record], kind: Kind) -> dict[str, Any]:
    """The figures with 95 % intervals by bootstrap over the images, also `by_language`.

    Of scores: `score`, the mean; `shares`, of the ratings by score. Of pairs: `preferred`, the mean
    preference; `wins`, `ties` and `losses`, the shares of pairs by their own mean preference; where
    both orders were asked about, `position_bias`, the share of pairs in which the same position was
    chosen in both, and `first` and `second`, its two parts. Each of `score`, `preferred` and
    `position_bias` has its `_low` and `_high`. `judged` and `failed` are numbers of questions.
    """
    languages = sorted({record["language"] for record in records})
    return {
        **_figures(records, kind),
        "by_language": {
            language: _figures([each for each in records if each["language"] == language], kind)
            for language in languages
        },
    }


def scored(records: Sequence[Record], kind: Kind) -> Counted:
    """Figures for any weights of the images; what could not be judged is left out."""
    by_image: dict[str, Array] = {}
    row = _score_row if kind is Kind.SCORES else _pair_row
    for record in judged(records):
        by_image[record["image"]] = by_image.get(record["image"], 0.0) + np.array(row(record))
    ratios = _score_ratios if kind is Kind.SCORES else _pair_ratios
    return Counted(list(by_image), np.stack(list(by_image.values())), ratios)


def judged(records: Sequence[Record]) -> list[Record]:
    """Those that are not failures."""
    return [record for record in records if "failure" not in record]


def _figures(records: Sequence[Record], kind: Kind) -> dict[str, Any]:
    count = len(judged(records))
    counts = {"judged": count, "failed": len(records) - count}
    if not count:
        return counts
    found: dict[str, Any] = {}
    for name, each in estimate(scored(records, kind), scales=_SCALES).items():
        if np.isnan(each.value):  # nothing was asked about in both orders
            continue
        found[name] = each.value
        if name in ("score", "preferred", "position_bias"):
            found |= {f"{name}_low": each.low, f"{name}_high": each.high}
    if kind is Kind.SCORES:
        found["shares"] = {str(score): found.pop(str(score)) for score in SCORES}
    return {**found, **counts}


def _score_row(record: Record) -> list[float]:
    """1; the mean; for each score the share of ratings."""
    scores = record["scores"]
    shares = [scores.count(score) / len(scores) for score in SCORES]
    return [1.0, sum(scores) / len(scores), *shares]


def _score_ratios(sums: Array) -> dict[str, Array]:
    count, total, *shares = sums.T
    named = {str(score): ratio(each, count) for score, each in zip(SCORES, shares, strict=True)}
    return {"score": ratio(total, count), **named}


def _pair_row(record: Record) -> list[float]:
    """1; the mean preference; win, tie, loss; whether both orders were asked; first, second."""
    mean = sum(record["preference"]) / len(record["preference"])
    outcome = [mean > EVEN, mean == EVEN, mean < EVEN]
    position = [record.get("position") == each for each in POSITIONS]
    return [1.0, mean, *map(float, [*outcome, "position" in record, *position])]


def _pair_ratios(sums: Array) -> dict[str, Array]:
    count, preferred, wins, ties, losses, both, first, second = sums.T
    every = {"preferred": preferred, "wins": wins, "ties": ties, "losses": losses}
    asked = {"position_bias": first + second, "first": first, "second": second}
    return {
        **{name: ratio(part, count) for name, part in every.items()},
        **{name: ratio(part, both) for name, part in asked.items()},
    }
