# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The cosine from which on images are near-duplicates: the recipe's, or as it was calibrated."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.curation.encoders import open_encoder
from vlm_perception.curation.recipe import CurationError, EmbeddingRule
from vlm_perception.curation.thresholds.stored import read_thresholds

COPY_SECTION = "filter"
"""The part of the recipe that the threshold belongs to."""


class CopyThreshold(BaseModel):
    """A threshold, and what it costs."""

    model_config = ConfigDict(frozen=True)

    cosine: float
    """The least of near-duplicates."""
    accepted: float
    """Share of the images that would be taken for a copy of another one of them."""
    rejected: float
    """Share of the copies that would not be taken for one of their image."""


class CalibratedCopies(CopyThreshold):
    """What `curate calibrate` has found, and for whom."""

    encoder: str
    """Digest."""
    false_accept: float
    """Share of the images that was asked for."""
    images: int
    seed: int


def copy_cosine(folder: Path, rule: EmbeddingRule) -> float:
    """The least cosine of near-duplicates: the recipe's, or what was calibrated.

    Raises:
        CurationError: it is to be calibrated, and was not, or for another encoder or rate.
    """
    if not isinstance(rule.cosine, str):
        return rule.cosine
    remedy = f"`vlm-perception curate calibrate {folder}` finds it"
    try:
        found = CalibratedCopies.model_validate(read_thresholds(folder).get(COPY_SECTION))
    except ValidationError as error:
        raise CurationError(f"{folder} has no calibrated threshold of copies; {remedy}") from error
    if found.encoder != open_encoder(rule.encoder, folder).digest:
        raise CurationError(f"the threshold of copies was calibrated for another encoder; {remedy}")
    if found.false_accept != rule.false_accept:
        raise CurationError(
            f"the threshold of copies was calibrated with false_accept {found.false_accept}; "
            f"{remedy}"
        )
    return found.cosine
