# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How good thresholds are that were set without annotations, on scenes whose truth is known.

The scores are the bare cosines of a road-world bundle, each label's multiplied and shifted at
random, so that no absolute number means anything. Each draw takes images with a label and images
without it, as the prevalence says, and judges the threshold on other images of that prevalence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import Street, Streets
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.road_world import require_road_world
from vlm_perception.evaluation.task import run_task
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.tag_thresholds import Cut, Verdict, find_cut
from vlm_perception.types import Frame

PREVALENCES = (0.0, 0.01, 0.03, 0.1, 0.3)
SEED = 80_000_000
"""First seed of the scenes. The method's numbers were chosen on scenes up to 70,003,000."""
IMAGES = 800
"""Of one draw."""
SCALE_SPREAD, SHIFT_SPREAD = 1.5, 3.0
"""Standard deviations of the logarithm of the hidden scale, and of the hidden shift."""

Method = Callable[[NDArray[np.float64]], Cut]


@dataclass(frozen=True)
class Judged:
    """One threshold, on images that it was not set on."""

    label: str
    verdict: Verdict
    absent: int
    """Images without the label that it is judged on."""
    false_alarms: float
    """Share of those that it fires on."""
    f1: float
    """Over that of the best threshold for these images; NaN where none shows the label."""


class TagThresholds:
    """Collects what a bundle makes of scenes, then sets thresholds and judges them."""

    def __init__(self, bundle: ModelBundle, draws: int) -> None:
        """Load the vision tower.

        Raises:
            ForeignBundleError: the bundle lacks a label of the road world.
        """
        require_road_world(bundle)
        self._encoder = VisionEncoder(bundle, threads=2, temporal=False)
        self._encoder.set_vocabulary(list(LABELS))
        self._draws = draws
        self._pooled: list[NDArray[np.float32]] = []
        self._present: list[list[bool]] = []

    def take(self, sample: Street) -> None:
        """Encode one scene, and keep what is true of it."""
        self._pooled.append(self._encoder.encode(Frame(sample.image, 0), 0).pooled)
        self._present.append(sample.present(LABELS))

    def report(self) -> Report:
        """The figures of each prevalence."""
        cosines = np.stack(self._pooled) @ self._encoder.vocabulary.embeddings.T
        present = np.array(self._present)
        methods = {"calibrate tags": find_cut, "Otsu": otsu}
        judged = {
            name: {
                prevalence: list(draws(cosines, present, prevalence, self._draws, method))
                for prevalence in PREVALENCES
            }
            for name, method in methods.items()
        }
        figures = {
            name: {f"{prevalence:g}": figures_of(found) for prevalence, found in rows.items()}
            for name, rows in judged.items()
        }
        return Report([_table(name, rows) for name, rows in judged.items()], figures)


def run(bundle: str, scenes: int, draws: int, first_seed: int = SEED) -> Report:
    """Judge thresholds on scenes from seeds that were not used in training.

    Args:
        bundle: name or path of the bundle.
        scenes: how many.
        draws: for each label and prevalence.
        first_seed: of the scenes.

    Raises:
        BundleError: the bundle cannot be used.
        ForeignBundleError: it lacks a label of the road world.
    """
    return run_task(
        TagThresholds(ModelBundle.load(bundle), draws),
        Streets(range(first_seed, first_seed + scenes)),
    )


def draws(
    cosines: NDArray[np.float32],
    present: NDArray[np.bool_],
    prevalence: float,
    count: int,
    method: Method,
    images: int = IMAGES,
) -> Iterator[Judged]:
    """Set and judge thresholds for each label that there are images enough of.

    Args:
        cosines: [N, labels].
        present: [N, labels], the truth.
        prevalence: share of the images that show the label.
        count: draws for each label.
        method: gives the threshold for scores, [images].
        images: of a draw.
    """
    shown = round(prevalence * images)
    for column, label in enumerate(LABELS):
        here, absent = np.flatnonzero(present[:, column]), np.flatnonzero(~present[:, column])
        if len(here) < 1.25 * shown or len(absent) < 1.25 * (images - shown):
            continue
        for number in range(count):
            rng = np.random.default_rng((number, column, round(1000 * prevalence)))
            here, absent = rng.permutation(here), rng.permutation(absent)
            scores = cosines[:, column] * np.exp(SCALE_SPREAD * rng.normal())
            scores = scores + SHIFT_SPREAD * rng.normal()
            seen = np.concatenate([here[:shown], absent[: images - shown]])
            fresh = _others(here[shown:], absent[images - shown :], prevalence)
            cut = method(rng.permutation(scores[seen]))
            yield _judge(label, cut, scores[fresh], present[fresh, column])


def otsu(scores: NDArray[np.float64]) -> Cut:
    """The threshold that parts scores, [N], into the two most compact halves (Otsu, 1979)."""
    ordered = np.sort(scores)
    left = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    low, high = sums[:-1] / left, (sums[-1] - sums[:-1]) / (len(ordered) - left)
    best = int(np.argmax(left * (len(ordered) - left) * np.square(high - low)))
    return Cut(float(ordered[best : best + 2].mean()), Verdict.FIRES)


def figures_of(found: list[Judged]) -> dict[str, float]:
    """Means over all draws, and the worst label's share of false alarms with its interval."""
    by_label: dict[str, list[Judged]] = {}
    for each in found:
        by_label.setdefault(each.label, []).append(each)
    shares = {
        label: float(np.mean([each.false_alarms for each in judged]))
        for label, judged in by_label.items()
    }
    worst = max(shares, key=lambda label: shares[label])
    # All draws of a label are judged on nearly the same images, so that those of one count.
    low, high = _wilson(shares[worst], max(each.absent for each in by_label[worst]))
    ratios = [each.f1 for each in found if not np.isnan(each.f1)]
    verdicts = {
        verdict.value: float(np.mean([each.verdict is verdict for each in found]))
        for verdict in Verdict
    }
    return {
        "draws": len(found),
        "labels": len(by_label),
        **verdicts,
        "false_alarms": float(np.mean([each.false_alarms for each in found])),
        "false_alarms_worst_label": shares[worst],
        "false_alarms_worst_label_low": low,
        "false_alarms_worst_label_high": high,
        "f1_over_best": float(np.mean(ratios)) if ratios else float("nan"),
    }


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in so many (Wilson, JASA 1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count)
    half *= math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _others(
    here: NDArray[np.int64], absent: NDArray[np.int64], prevalence: float
) -> NDArray[np.int64]:
    """As many of these images as can be had at a prevalence."""
    shown = round(len(absent) * prevalence / (1.0 - prevalence))
    if shown > len(here):
        shown, absent = len(here), absent[: round(len(here) * (1.0 - prevalence) / prevalence)]
    return np.concatenate([here[:shown], absent])


def _judge(label: str, cut: Cut, scores: NDArray[np.float64], present: NDArray[np.bool_]) -> Judged:
    fires = scores >= cut.at
    ratio = float("nan")
    if present.any():
        ratio = _f1(fires, present) / _best_f1(scores, present)
    absent = fires[~present]
    return Judged(label, cut.verdict, len(absent), float(absent.mean()), ratio)


def _f1(fires: NDArray[np.bool_], present: NDArray[np.bool_]) -> float:
    return float(2 * (fires & present).sum() / (fires.sum() + present.sum()))


def _best_f1(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    found = np.cumsum(present[np.argsort(-scores, kind="stable")])
    return float((2 * found / (np.arange(1, len(scores) + 1) + present.sum())).max())


def _table(name: str, rows: dict[float, list[Judged]]) -> Table:
    draws_each = max(map(len, rows.values()))
    table = figure_table(
        f"Thresholds by {name}, {IMAGES} images, {draws_each} draws",
        "on",
        *(verdict.value for verdict in Verdict),
        "false alarms",
        "worst label",
        "95 %",
        "F1",
        caption="95 %: interval of the worst label. F1: over that of the best threshold.",
    )
    for prevalence, found in rows.items():
        if not found:
            continue
        figures = figures_of(found)
        shares = [figures[verdict.value] for verdict in Verdict]
        shares.append(figures["false_alarms"])
        worst = [figures[f"false_alarms_worst_label{end}"] for end in ("", "_low", "_high")]
        ratio = figures["f1_over_best"]
        table.add_row(
            f"{prevalence:.0%}",
            *(f"{share:.1%}" for share in shares),
            f"{worst[0]:.1%}",
            f"{100 * worst[1]:.2g}-{100 * worst[2]:.2g}",
            "" if np.isnan(ratio) else f"{ratio:.3f}",
        )
    return table
