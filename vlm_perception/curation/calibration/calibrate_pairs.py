# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the thresholds of pairs for the encoder of a recipe: from good pairs, and shuffled ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vlm_perception.curation.calibration.pair_thresholds import (
    Scores,
    joint_limits,
    rejected,
    shuffled_partners,
    upper_limit,
)
from vlm_perception.curation.calibration.too_early import TooEarlyError
from vlm_perception.curation.image_files import read_file, usable_image
from vlm_perception.curation.quality.languages import knows
from vlm_perception.curation.quality.pair_scores import (
    AS_IT_CAME,
    Evidence,
    PairScores,
    pair_scores,
)
from vlm_perception.curation.recipe import CurationError, Quality
from vlm_perception.curation.sample import drawn
from vlm_perception.curation.stage_folder import QUALITY, before, read_manifest
from vlm_perception.curation.step import kept_in
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.pair_limits import PairThresholds, rules
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, read_captions
from vlm_perception.evaluation.folder_images import FolderImagesError, plain_name
from vlm_perception.evaluation.hallucination.synonyms import synonyms_digest
from vlm_perception.media.image_errors import ImageError

MOST = 2000
"""Images whose captions are looked at."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FIGURES = ("reject", "absent", "there")


def pair_thresholds(folder: Path, quality: Quality, seed: int) -> PairThresholds:
    """The thresholds for what a recipe asks.

    Args:
        folder: of the set.
        quality: of its recipe.
        seed: of the choice of images, and of whose captions they are shuffled with.

    Raises:
        CurationError: there are no pairs, or too few.
        TooEarlyError: the stage of the captions is missing.
        CaptionsError: the captions of the folder of good pairs are missing or damaged.
    """
    records = _chosen(_good_pairs(folder, quality), seed)
    _require_enough(len(records), quality)
    scores = pair_scores(folder, quality)
    good, shuffled = _evidence(records, quality, scores, seed)
    _require_enough(len(good), quality)
    digests = scores.encoder.digest, scores.tagger_digest
    limits = calibrated_pairs(good, shuffled, quality, *digests, seed)
    return limits.model_copy(update={"synonyms": synonyms_digest(folder)})


def calibrated_pairs(
    good: Sequence[Evidence],
    shuffled: Sequence[Evidence],
    quality: Quality,
    encoder: str,
    tagger: str,
    seed: int,
) -> PairThresholds:
    """The thresholds for pairs that were looked at.

    Args:
        good: pairs, at least one.
        shuffled: images with captions of others, at least one.
        quality: says which rates are asked for, and what rejects.
        encoder: digest of what has looked.
        tagger: that of the bundle whose tags were looked at; empty: there were none.
        seed: for the record.
    """
    of_good, of_shuffled = by_limit(good), by_limit(shuffled)
    asked = rules(quality)
    limits = joint_limits({name: of_good[name] for name in asked}, quality.false_reject)
    for name in set(FIGURES) - set(asked):
        limits |= joint_limits({name: of_good[name]}, quality.false_reject)
    # No label is surely absent that reaches its threshold, nor there if it does not.
    limits = {
        name: limit if name == "reject" else min(limit, 0.0) for name, limit in limits.items()
    }
    lower = limits["reject"]
    accept = upper_limit(of_shuffled["reject"], quality.false_accept, lower)
    used = {name: limits[name] for name in asked}
    taken = ~rejected(of_shuffled, used) & (of_shuffled["reject"] > accept)
    return PairThresholds(
        accept=accept,
        reject=lower,
        absent=abs(limits["absent"]),
        there=abs(limits["there"]),
        encoder=encoder,
        tagger=tagger,
        prefix=quality.prefix,
        false_accept=quality.false_accept,
        false_reject=quality.false_reject,
        rules=asked,
        languages=quality.languages,
        good_pairs=quality.good_pairs,
        pairs=len(good),
        seed=seed,
        accepted=float(taken.mean()),
        rejected=float(rejected(of_good, used).mean()),
        quantiles={
            "good": _quantiles(of_good["reject"]),
            "shuffled": _quantiles(of_shuffled["reject"]),
        },
    )


def _require_enough(images: int, quality: Quality) -> None:
    least = round(1 / min(quality.false_accept, quality.false_reject))
    if images < least:
        raise CurationError(
            f"{images} images with a caption in {', '.join(quality.languages)} are too few for "
            f"these rates: it takes {least}, and some hundred are better; add images, or name a "
            "folder of good captions in quality.good_pairs"
        )


def by_limit(pairs: Sequence[Evidence]) -> dict[str, Scores]:
    """By limit the figure of each pair that must not lie below it, [N]."""
    return {
        "reject": np.array([each.cosine for each in pairs]),
        "absent": np.array([min(each.named.values(), default=np.inf) for each in pairs]),
        "there": np.array([-max(each.unnamed.values(), default=-np.inf) for each in pairs]),
    }


def _quantiles(scores: Scores) -> dict[str, float]:
    return {f"{share:g}": round(float(np.quantile(scores, share)), 4) for share in QUANTILES}


def _good_pairs(folder: Path, quality: Quality) -> Iterator[Record]:
    """Images that have captions in a language which the encoder knows, with those alone."""
    for record in _sources(folder, quality):
        known = [each for each in record.get("captions", ()) if knows(quality, each["language"])]
        if known:
            yield {**record, "captions": known}


def _sources(folder: Path, quality: Quality) -> Iterator[Record]:
    if quality.good_pairs is not None:
        yield from _of_folder(folder / quality.good_pairs)
        return
    stage = before(QUALITY)
    if read_manifest(folder, stage) is None:
        raise TooEarlyError(
            f"pairs need the captions of {stage}, which this takes for good ones: `vlm-perception "
            f"curate run {folder} --to {stage}`, then calibrate again, or name a folder of good "
            "captions in quality.good_pairs"
        )
    for records in kept_in(folder, stage):
        yield from records


def _of_folder(folder: Path) -> Iterator[Record]:
    for name, captions in read_captions(folder / CAPTIONS_FILE):
        try:
            file = (folder / plain_name(name)).resolve()
            content = usable_image(read_file(file, folder)).file
        except (ImageError, FolderImagesError) as error:
            raise CurationError(f"{folder / name} cannot be used: {error}") from error
        texts = [{"text": each.text, "language": each.language} for each in captions]
        digest = hashlib.sha256(content).hexdigest()
        yield {"file": str(file), AS_IT_CAME: True, "sha256": digest, "captions": texts}


def _chosen(records: Iterator[Record], seed: int) -> list[Record]:
    """As many as are looked at, the same for the same images and seed; each image once.

    An image that is there more than once has all its captions, or one of them would be taken for
    that of another image.
    """
    joined: dict[str, Record] = {}
    for record in drawn(records, MOST, seed):
        same = joined.setdefault(record["sha256"], {**record, "captions": []})
        same["captions"] += record["captions"]
    return list(joined.values())


def _evidence(
    records: Sequence[Record], quality: Quality, scores: PairScores, seed: int
) -> tuple[list[Evidence], list[Evidence]]:
    """Of the good pairs, one an image, and of the shuffled ones."""
    texts = [[each["text"] for each in record["captions"]] for record in records]
    partners = shuffled_partners([frozenset(each) for each in texts], seed)
    good: list[Evidence] = []
    shuffled: list[Evidence] = []
    for place, record in enumerate(records):
        other = texts[partners[place]][0]
        try:
            both = scores.evidence(record, [texts[place][0], other])
        except ImageError:
            # It went missing, or was damaged, after it was stored.
            continue
        good.append(both[0])
        if partners[place] != place:
            shuffled.append(both[1])
    if not shuffled:
        raise CurationError(
            "all images have the same caption, so that none can be shuffled: add images, name a "
            "folder of good captions in quality.good_pairs, or set scale, accept and reject"
        )
    return good, shuffled


def pair_rows(thresholds: PairThresholds) -> Mapping[str, str]:
    """What a table shows, by what it is."""
    tags = {
        "absent: log-odds below a label's threshold": f"{thresholds.absent:.2f}",
        "there: log-odds above it": f"{thresholds.there:.2f}",
    }
    return {
        "good pairs": f"{thresholds.pairs}",
        "accept: cosines above it": f"{thresholds.accept:.4f}",
        "reject: cosines below it": f"{thresholds.reject:.4f}",
        **(tags if thresholds.tagger else {}),
        "rules that reject": ", ".join(thresholds.rules),
        "good pairs rejected": f"{thresholds.rejected:.1%} (asked: {thresholds.false_reject:.1%})",
        "shuffled pairs taken": f"{thresholds.accepted:.1%} (asked: {thresholds.false_accept:.1%})",
    }
