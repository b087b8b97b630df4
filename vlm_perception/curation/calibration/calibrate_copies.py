# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the cosine from which on an encoder takes images for copies, from images of the set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.calibration.copy_threshold import copy_threshold
from vlm_perception.curation.calibration.too_early import TooEarlyError
from vlm_perception.curation.encoders import open_encoder
from vlm_perception.curation.filtering.copies import Image, cropped, flipped, jpeg_50, smaller
from vlm_perception.curation.filtering.hash_index import Hashes, distances
from vlm_perception.curation.filtering.image_figures import image_figures
from vlm_perception.curation.image_files import decode, read_file
from vlm_perception.curation.recipe import CurationError, Filter
from vlm_perception.curation.sample import drawn
from vlm_perception.curation.stage_folder import RAW, read_manifest
from vlm_perception.curation.step import kept_in
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.copy_cosine import CalibratedCopies
from vlm_perception.media.image_errors import ImageError

MOST, LEAST = 500, 20
"""Images."""
COPIES = (jpeg_50, lambda image: smaller(image, 0.75), cropped, flipped)
SAME = 8
"""Images whose perceptual hashes differ in no more bits than these are copies: one of them is
taken. The recipe's `phash_distance` has no say in it, as it may be null."""


def copy_thresholds(folder: Path, rules: Filter, seed: int) -> CalibratedCopies:
    """The threshold for the encoder of a recipe.

    Copies are compressed, made smaller, cropped by a tenth, and flipped.

    Args:
        folder: of the set.
        rules: of its recipe, with an encoder.
        seed: of the choice of images.

    Raises:
        CurationError: there are too few images, or the encoder does not tell them apart.
        TooEarlyError: 00_raw is missing.
    """
    spec = rules.embedding
    assert spec is not None
    encoder = open_encoder(spec.encoder, folder)
    rows: list[NDArray[np.float32]] = []
    copies: list[NDArray[np.float32]] = []
    for image in _different(folder, seed):
        embedded = encoder.images([image, *(copied(image) for copied in COPIES)])
        rows.append(embedded[0])
        copies.append(embedded[1:])
    if len(rows) < LEAST:
        raise CurationError(
            f"{folder} has {len(rows)} images that differ, and a threshold of copies takes "
            f"{LEAST}; some hundred are better"
        )
    found = copy_threshold(np.stack(rows), np.stack(copies), spec.false_accept)
    if found.cosine > 1.0:
        raise CurationError(
            f"to the encoder {spec.encoder.path} more than {spec.false_accept:.1%} of the images "
            "that differ by their hash are the same, so that no cosine finds copies alone; name "
            "another encoder, or raise filter.embedding.false_accept"
        )
    return CalibratedCopies(
        **found.model_dump(),
        encoder=encoder.digest,
        false_accept=spec.false_accept,
        images=len(rows),
        seed=seed,
    )


def copy_rows(thresholds: CalibratedCopies) -> Mapping[str, str]:
    """What a table shows, by what it is."""
    taken = f"{thresholds.accepted:.1%} (asked: {thresholds.false_accept:.1%})"
    return {
        "images": f"{thresholds.images}",
        "cosine: copies reach it": f"{thresholds.cosine:.4f}",
        "images taken for a copy of another": taken,
        "copies not taken for one": f"{thresholds.rejected:.1%}",
    }


def _different(folder: Path, seed: int) -> Iterator[Image]:
    """Images of the set of which none is a near-duplicate of another by its hash."""
    if read_manifest(folder, RAW) is None:
        raise TooEarlyError(
            f"copies need the images of {RAW}: `vlm-perception curate run {folder} --to {RAW}`, "
            "then calibrate again"
        )

    chosen = drawn(_records(folder), MOST, seed)
    hashes: Hashes = np.empty(0, np.uint64)
    for record in chosen:
        try:
            image = decode(read_file(folder / record["file"]))
        except ImageError:
            # 01_filtered lists it.
            continue
        own = np.array([image_figures(image).phash], np.uint64)
        if (distances(own, hashes) > SAME).all():
            hashes = np.concatenate([hashes, own])
            yield image


def _records(folder: Path) -> Iterator[Record]:
    for records in kept_in(folder, RAW):
        yield from records
