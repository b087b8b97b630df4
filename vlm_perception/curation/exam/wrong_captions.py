# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How well wrong captions are told from right ones that differ in one thing.

Scenes of the road world have captions that are right, and others in the same words in which an
object was added, removed or swapped, a count is wrong, or the weather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.curation.calibration.calibrate_pairs import by_limit, calibrated_pairs
from vlm_perception.curation.calibration.pair_thresholds import Scores, rejected, shuffled_partners
from vlm_perception.curation.encoders import Encoder, open_encoder
from vlm_perception.curation.quality.pair_scores import Evidence
from vlm_perception.curation.quality.retrieval_check import DEPTH, caption_ranks
from vlm_perception.curation.quality.tags import Tags
from vlm_perception.curation.recipe import BundleEncoder, Quality
from vlm_perception.curation.thresholds.pair_limits import rules
from vlm_perception.datasets.roadworld.streets import Street, Streets
from vlm_perception.datasets.roadworld.truth import captions
from vlm_perception.datasets.roadworld.wrong_truth import FAULTS, with_fault
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.road_world import EXAM_SEED

CALIBRATION_SEED = 9_000_000
"""First seed of the scenes whose right captions set the thresholds: others than the exam's."""
WORDINGS = 4
WRONG_SHARE = 0.3
"""Of the captions of a set, for the share of wrong ones that is left in it."""
VARIANTS = {
    "score": (False, False),
    "score+contradicted": (True, False),
    "score+contradicted+incomplete": (True, True),
}
"""What is tried: whether reject_contradicted and reject_incomplete hold."""
RIGHT = "right"
MIXED = {"shuffled": "are another image's", "faults": "have one fault"}
"""Sets with wrong captions, for the retrieval check."""


@dataclass(frozen=True)
class _Scenes:
    """Scenes as the encoder sees them, with their captions."""

    images: NDArray[np.float32]
    """Embeddings, [N, D]."""
    texts: Sequence[Mapping[str, str]]
    """Of each by kind: RIGHT, or a fault that the scene can have."""


def run(bundle: str, scenes: int, false_reject: float) -> Report:
    """Calibrate on scenes, and try the thresholds on as many others.

    Args:
        bundle: name or path of the bundle whose encoder and tags are tried.
        scenes: how many of each.
        false_reject: share of right captions that may be left out.

    Raises:
        BundleError: the bundle cannot be used.
    """
    model = ModelBundle.load(bundle)
    spec = BundleEncoder(kind="bundle", path=str(model.path))
    encoder, tags = open_encoder(spec, Path.cwd()), Tags(model, model.path)
    known = _scenes(encoder, range(CALIBRATION_SEED, CALIBRATION_SEED + scenes), "Calibrating")
    right = [texts[RIGHT] for texts in known.texts]
    partners = shuffled_partners([frozenset((text,)) for text in right], 0)
    good = _seen(encoder, tags, known.images, right)
    shuffled = _seen(encoder, tags, known.images, [right[partner] for partner in partners])
    exam = _scenes(encoder, range(EXAM_SEED, EXAM_SEED + scenes), "Examining")
    judged = {kind: by_limit(_of_kind(encoder, tags, exam, kind)) for kind in (RIGHT, *FAULTS)}
    results: dict[str, Any] = {}
    for name, (contradicted, incomplete) in VARIANTS.items():
        quality = Quality(
            encoder=spec,
            prefix="",
            thresholds="calibrated",
            false_reject=false_reject,
            reject_contradicted=contradicted,
            reject_incomplete=incomplete,
        )
        bounds = calibrated_pairs(good, shuffled, quality, encoder.digest, model.digest, 0)
        limits = {"reject": bounds.reject, "absent": -bounds.absent, "there": -bounds.there}
        used = {each: limits[each] for each in rules(quality)}
        results[name] = _result(judged, by_limit(good), used)
    lowest = results[next(iter(VARIANTS))]["limits"]["reject"]
    missed = _missed(encoder, exam, lowest)
    return Report(
        [
            _table(results, scenes),
            f"Wrong captions are in the words of right ones. Thresholds are those at which "
            f"{false_reject:.0%} of the right captions of {scenes} other scenes are left out.",
            *(
                f"Retrieval check where {WRONG_SHARE:.0%} of the captions {words}: "
                f"{missed[kind]['before']:.1%} of {scenes} images miss theirs, and "
                f"{missed[kind]['after']:.1%} of the {missed[kind]['kept']} that the score keeps"
                for kind, words in MIXED.items()
            ),
        ],
        {
            "hard_captions": results,
            "retrieval_miss_at_10": missed,
            "scenes": scenes,
            "false_reject": false_reject,
            "bundle_digest": model.digest,
        },
    )


def _scenes(encoder: Encoder, seeds: range, doing: str) -> _Scenes:
    images, texts = [], []
    for place, street in enumerate(track(Streets(seeds), doing, total=len(seeds), transient=True)):
        images.append(encoder.images([street.image])[0])
        texts.append(_captions(street, seeds[place]))
    return _Scenes(np.stack(images), texts)


def _captions(street: Street, seed: int) -> dict[str, str]:
    """A right caption of a scene, and in its words one with each fault that it can have."""
    wording = seed % WORDINGS
    found = {RIGHT: street.captions[wording].text}
    for number, kind in enumerate(FAULTS):
        wrong = with_fault(street.truth, kind, np.random.default_rng((seed, 6, number)))
        if wrong is not None:
            found[kind] = captions(wrong, np.random.default_rng((seed, 5)))[wording]
    return found


def _of_kind(encoder: Encoder, tags: Tags, scenes: _Scenes, kind: str) -> list[Evidence]:
    having = [place for place, texts in enumerate(scenes.texts) if kind in texts]
    texts = [scenes.texts[place][kind] for place in having]
    return _seen(encoder, tags, scenes.images[having], texts)


def _seen(
    encoder: Encoder, tags: Tags, images: NDArray[np.float32], texts: Sequence[str]
) -> list[Evidence]:
    rows = encoder.texts(texts)
    return [
        Evidence(float(image @ row), *tags.parted(text, tags.margins(image)))
        for image, row, text in zip(images, rows, texts, strict=True)
    ]


def _missed(encoder: Encoder, scenes: _Scenes, limit: float) -> dict[str, dict[str, float]]:
    """Images that do not find their caption among ten, in sets of which some captions are wrong.

    Args:
        encoder: embeds the captions.
        scenes: of the exam.
        limit: a cosine below which pairs are left out.
    """
    right = [texts[RIGHT] for texts in scenes.texts]
    count = len(right)
    wrong = np.random.default_rng(0).permutation(count)[: round(WRONG_SHARE * count)]
    mixed = {kind: list(right) for kind in MIXED}
    for number, place in enumerate(wrong):
        others = [text for kind, text in scenes.texts[place].items() if kind != RIGHT]
        mixed["faults"][place] = others[number % len(others)]
        mixed["shuffled"][place] = right[wrong[number - 1]]
    found = {}
    for kind, texts in mixed.items():
        cosines = np.einsum("nd,nd->n", scenes.images, encoder.texts(texts))
        kept = np.flatnonzero(cosines >= limit)
        found[kind] = {
            "before": _share_missed(encoder, scenes.images, texts),
            "after": _share_missed(encoder, scenes.images[kept], [texts[at] for at in kept]),
            "kept": len(kept),
        }
    return found


def _share_missed(encoder: Encoder, images: NDArray[np.float32], texts: Sequence[str]) -> float:
    ranks = caption_ranks(images, [[text] for text in texts], encoder.texts)
    return float((np.array(ranks) >= DEPTH).mean())


def _result(
    exam: Mapping[str, Mapping[str, Scores]],
    calibration: Mapping[str, Scores],
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """What is removed of each kind, and how well its pairs are ranked behind the right ones."""
    right = exam[RIGHT]
    kept = 1.0 - float(rejected(right, limits).mean())
    ranked = {kind: _rank(each, calibration, limits) for kind, each in exam.items()}
    removed = {kind: float(rejected(exam[kind], limits).mean()) for kind in FAULTS}
    mean = float(np.mean([*removed.values()]))
    left = WRONG_SHARE * (1.0 - mean)
    return {
        "limits": dict(limits),
        "auc": {kind: _auc(ranked[RIGHT], ranked[kind]) for kind in FAULTS},
        "removed": removed,
        "mean_removed": mean,
        "right_kept": kept,
        "wrong_left": left / (left + (1.0 - WRONG_SHARE) * kept),
        "pairs": {kind: len(each["reject"]) for kind, each in exam.items()},
    }


def _rank(
    pairs: Mapping[str, Scores], good: Mapping[str, Scores], limits: Mapping[str, float]
) -> Scores:
    """The least quantile, among good pairs, of the figures that are judged; ties by the cosine."""
    quantiles = [
        np.searchsorted(np.sort(good[name]), pairs[name], side="right") / len(good[name])
        for name in limits
    ]
    return np.asarray(np.min(quantiles, axis=0) + 1e-6 * pairs["reject"], np.float64)


def _auc(right: Scores, wrong: Scores) -> float:
    """Share of the pairs of a right and a wrong one in which the right one ranks higher."""
    ordered = np.sort(wrong)
    below = np.searchsorted(ordered, right, side="left")
    not_above = np.searchsorted(ordered, right, side="right")
    return float((below + not_above).mean() / (2 * len(wrong)))


def _table(results: Mapping[str, Mapping[str, Any]], scenes: int) -> Table:
    table = figure_table(
        f"Captions with one fault, {scenes} scenes",
        *("rules", "fault", "AUC", "removed", "right kept"),
        words=2,
        caption=f"mean: all faults alike; left: wrong captions in a set that had {WRONG_SHARE:.0%}",
    )
    for name, result in results.items():
        for number, kind in enumerate(FAULTS):
            table.add_row(
                name if number == 0 else "",
                kind,
                f"{result['auc'][kind]:.3f}",
                f"{result['removed'][kind]:.3f}",
                "",
            )
        auc = float(np.mean([*result["auc"].values()]))
        mean = (f"{auc:.3f}", f"{result['mean_removed']:.3f}", f"{result['right_kept']:.3f}")
        table.add_row("", "mean", *mean)
        table.add_row("", "left", "", f"{result['wrong_left']:.3f}", "")
        table.add_section()
    return table
