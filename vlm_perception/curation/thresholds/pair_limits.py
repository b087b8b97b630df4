# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a pair must reach to be taken: as the recipe says, or as it was calibrated."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.curation.recipe import SCALES, CurationError, Quality
from vlm_perception.curation.thresholds.stored import read_thresholds
from vlm_perception.evaluation.hallucination.synonyms import SYNONYMS_FILE, synonyms_digest

PAIR_SECTION = "quality"
"""The part of the recipe that the thresholds belong to."""
DIGITS = 6
"""Of the cosines that are compared with limits."""
SURE = 3.0
"""Natural logarithm of odds, here 20 to 1, by which a label lies below or above its threshold when
the tagger is sure of it, unless that was calibrated."""


class Limits(BaseModel):
    """Bounds of a pair's figures."""

    model_config = ConfigDict(frozen=True)

    accept: float
    """A cosine above it is taken."""
    reject: float
    """A cosine below it is rejected at once."""
    absent: float = SURE
    """A label that lies farther below its threshold is surely absent."""
    there: float = SURE
    """A label that lies farther above it is surely there."""


class PairThresholds(Limits):
    """What `curate calibrate` has found, and for whom."""

    encoder: str
    """Digest."""
    tagger: str
    """Digest; empty: there are no tags, and `absent` and `there` say nothing."""
    prefix: str
    false_accept: float
    false_reject: float
    rules: tuple[str, ...]
    """Those that reject, which together reject as many good pairs as was asked."""
    languages: tuple[str, ...]
    """Those that the encoder was taken to know."""
    good_pairs: str | None
    """The folder of good captions; None: the set's own."""
    synonyms: str = ""
    """Digest of what the labels of its tags are called besides; empty: there was no such file."""
    pairs: int
    """Good ones; there are as many shuffled ones."""
    seed: int
    accepted: float
    """Share of the shuffled pairs that are taken."""
    rejected: float
    """Share of the good pairs that are rejected."""
    quantiles: dict[str, dict[str, float]]
    """Of the cosines of good and of shuffled pairs."""


def limits(folder: Path, quality: Quality, encoder: str, tagger: str) -> Limits:
    """The limits of a set.

    Args:
        folder: of the set.
        quality: of its recipe.
        encoder: its digest.
        tagger: that of the bundle whose tags mark captions; empty: there is none.

    Raises:
        CurationError: they are to be calibrated, and were not, or for something else.
    """
    if quality.accept is not None and quality.reject is not None and quality.scale is not None:
        times = SCALES[quality.scale]
        return Limits(
            accept=round(quality.accept / times, DIGITS),
            reject=round(quality.reject / times, DIGITS),
        )
    remedy = f"`vlm-perception curate calibrate {folder}` finds them"
    try:
        found = PairThresholds.model_validate(read_thresholds(folder).get(PAIR_SECTION))
    except ValidationError as error:
        raise CurationError(f"{folder} has no calibrated thresholds of pairs; {remedy}") from error
    if found.encoder != encoder:
        raise CurationError(
            f"the thresholds of pairs were calibrated for another encoder; {remedy}"
        )
    if found.tagger != tagger:
        raise CurationError(f"the thresholds of pairs were calibrated with other tags; {remedy}")
    for name in ("prefix", "false_accept", "false_reject", "languages", "good_pairs"):
        known = getattr(found, name)
        if known != getattr(quality, name):
            raise CurationError(
                f"the thresholds of pairs were calibrated with {name} {known!r}; {remedy}"
            )
    if found.tagger and found.synonyms != synonyms_digest(folder):
        raise CurationError(
            f"the thresholds of pairs were calibrated with another {SYNONYMS_FILE}; {remedy}"
        )
    if found.rules != rules(quality):
        raise CurationError(f"the thresholds of pairs were calibrated for other rules; {remedy}")
    return found


def rules(quality: Quality) -> tuple[str, ...]:
    """The limits below which a recipe rejects."""
    asked = {
        "reject": True,
        "absent": quality.reject_contradicted,
        "there": quality.reject_incomplete,
    }
    return tuple(name for name, holds in asked.items() if holds)


def in_scale(cosine: float, quality: Quality) -> float:
    """A cosine as the scale of the recipe writes it."""
    return round(compared(cosine, quality) * SCALES[quality.scale or "cosine"], 4)


def compared(cosine: float, quality: Quality) -> float:
    """What of a cosine is compared with the limits: two of the scales know none below 0."""
    return cosine if quality.scale in (None, "cosine") else max(cosine, 0.0)
