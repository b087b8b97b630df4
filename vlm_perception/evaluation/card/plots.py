# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG to stand within a page: its colours, by day and by night, and its fonts are theirs.

matplotlib knows no CSS. It draws with colours that stand for the page's variables, and these are
put in their places afterwards.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vlm_perception.evaluation.comparison.bootstrap import Estimate
from vlm_perception.evaluation.comparison.scored import Array

INK, SOFT, LINE = "#010101", "#020202", "#030303"
MODELS = ("#040404", "#050505")
"""Of the first and of the second model."""
_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    MODELS[0]: "var(--accent)",
    MODELS[1]: "var(--warn)",
}
_STYLE = {
    "svg.fonttype": "none",
    # Names and labels are anybody's.
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
}
_MOST_POINTS = 60
"""Of a curve; more cannot be seen."""


@dataclass(frozen=True)
class Series:
    """One model's figures, in the order of the axis's ticks."""

    name: str
    estimates: Sequence[Estimate]


@dataclass(frozen=True)
class Bins:
    """Answers of one model by how sure it was of them."""

    name: str
    sure: Array
    """Mean probability of the likeliest choice, by bin."""
    right: Array
    """How often it was true."""


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one model for one label."""

    recall: Array
    precision: Array


def reliability(models: Sequence[Bins]) -> Markup:
    """How often answers are true, by how sure they are; the diagonal is honest."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _single(4.2, 3.6)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
        for model, colour in zip(models, MODELS, strict=False):
            axes.plot(model.sure, model.right, "o-", color=colour, markersize=4, label=model.name)
        low = min([1.0, *(float(np.nanmin([m.sure, m.right])) for m in models if len(m.sure))])
        axes.set(xlim=(low - 0.03, 1.01), ylim=(low - 0.03, 1.01))
        axes.set(xlabel="probability of the likeliest choice", ylabel="share that is true")
        _legend(axes, models)
        return _svg(figure, "reliability")


def curves(labels: Mapping[str, Sequence[Curve]]) -> Markup:
    """Precision over recall, a small plot for each label; its models in their order."""
    across = min(6, max(1, len(labels)))
    down = math.ceil(len(labels) / across)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(1.75 * across + 0.4, 1.65 * down + 0.4))
        # Set by hand: to find the layout would take longer than all plots of the page.
        width, height = figure.get_size_inches()
        figure.subplots_adjust(
            left=0.55 / width,
            right=1 - 0.1 / width,
            bottom=0.55 / height,
            top=1 - 0.25 / height,
            wspace=0.25,
            hspace=0.4,
        )
        for place, (label, models) in enumerate(labels.items(), start=1):
            axes = figure.add_subplot(down, across, place)
            axes.set_title(label, color=INK)
            axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.tick_params(labelsize=7, length=0)
            for model, colour in zip(models, MODELS, strict=False):
                keep = _thinned(len(model.recall))
                axes.plot(model.recall[keep], model.precision[keep], color=colour, linewidth=1.2)
        figure.text(0.5, 0.1 / height, "recall", color=SOFT, ha="center")
        figure.text(0.1 / width, 0.5, "precision", color=SOFT, va="center", rotation=90)
        return _svg(figure, "curves")


def intervals(
    ticks: Sequence[str],
    models: Sequence[Series],
    *,
    label: str,
    target: float | None = None,
    joined: bool = False,
) -> Markup:
    """Shares with their intervals beside one another.

    Args:
        ticks: what the figures are of.
        models: their figures, one for each tick.
        label: of the axis.
        target: a line across, where there is one to reach.
        joined: the ticks are steps of one thing, and a line goes through them.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _single(max(3.6, 0.75 * len(ticks) + 1.4), 3.0)
        if target is not None:
            axes.axhline(target, color=SOFT, linewidth=0.8, linestyle="--")
            axes.annotate("target", (len(ticks) - 0.5, target), color=SOFT, fontsize=8, va="bottom")
        apart = np.linspace(-0.12, 0.12, len(models)) if len(models) > 1 else [0.0]
        for model, colour, offset in zip(models, MODELS, apart, strict=False):
            values = np.array([each.value for each in model.estimates])
            low = values - [each.low for each in model.estimates]
            high = np.array([each.high for each in model.estimates]) - values
            axes.errorbar(
                np.arange(len(ticks)) + offset,
                values,
                np.maximum(np.nan_to_num([low, high]), 0.0),
                fmt="o-" if joined else "o",
                color=colour,
                markersize=4.5,
                linewidth=1.2,
                capsize=2.5,
                label=model.name,
            )
        lowest, highest = axes.get_ylim()
        axes.set_ylim(max(float(lowest), -0.02), min(float(highest), 1.02))
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)
        _legend(axes, models)
        return _svg(figure, f"intervals {label}")


def stacked(parts: Sequence[str], models: Mapping[str, Sequence[float]], *, label: str) -> Markup:
    """What a whole is made of: a bar for each model, its parts one after the other."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _single(6.4, 1.1 + 0.45 * len(models))
        for row, values in enumerate(models.values()):
            start = 0.0
            for index, (part, value) in enumerate(zip(parts, values, strict=True)):
                shade = 0.85 - 0.6 * index / max(1, len(parts) - 1)
                name = part if row == 0 else None
                axes.barh(row, value, 0.6, left=start, color=MODELS[row], alpha=shade, label=name)
                start += value
        figure.legend(loc="outside upper center", ncols=len(parts), fontsize=8)
        axes.set_yticks(range(len(models)), models)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        return _svg(figure, f"stacked {label}")


def _single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, models: Sequence[Series] | Sequence[Bins]) -> None:
    if len(models) > 1:
        axes.legend(fontsize=8)


def _thinned(count: int) -> NDArray[np.int64]:
    """Places of at most _MOST_POINTS points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(np.int64))


def _svg(figure: Figure, salt: str) -> Markup:
    """The element alone. Names within differ from those of other plots on the page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        # The page's fonts have characters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text.getvalue(), flags=re.S)
    drawn = drawn[drawn.index("<svg") :]
    return Markup(re.sub(r'style="[^"]*"', _own_style, drawn))


def _own_style(found: re.Match[str]) -> str:
    """A style of matplotlib's in colours and fonts of the page."""
    style = found[0]
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, variable)
    style = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", style)
    return re.sub(r"font-family: [^;\"]*", "font-family: inherit", style)
