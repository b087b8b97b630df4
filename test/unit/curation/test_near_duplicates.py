# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates are found exactly, and what a hash is made of decides which copies."""

from __future__ import annotations

from io import StringIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vlm_perception.curation.calibration.copy_threshold import copy_threshold
from vlm_perception.curation.filtering.embedding_measure import EmbeddingMeasure
from vlm_perception.curation.filtering.hash_index import NONE, HashIndex
from vlm_perception.curation.filtering.image_figures import image_figures, perceptual_hash
from vlm_perception.curation.filtering.near_duplicates import HashMeasure, find_near_duplicates
from vlm_perception.curation.progress import StageProgress
from vlm_perception.datasets.roadworld.streets import Streets

U64 = st.integers(0, 2**64 - 1)


@st.composite
def neighbouring_hashes(draw):
    """Hashes of which many are near to each other: chains of small changes from a few."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    hashes = draw(st.lists(U64, min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 60))):
        start = hashes[rng.integers(len(hashes))]
        bits = rng.choice(64, size=rng.integers(0, 12), replace=False)
        hashes.append(start ^ sum(1 << int(bit) for bit in bits))
    return np.array(hashes, np.uint64)


def distance(one, other):
    return bin(int(one) ^ int(other)).count("1")


def cosine(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    return round(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)), 9)


def by_brute_force(hashes, radius, embeddings, least):
    """For each: the place of the kept one, the gap and the rule."""
    kept, found = [], []
    for place in range(len(hashes)):
        by_hash = min(((distance(hashes[place], hashes[k]), k) for k in kept), default=(65, 0))
        by_row = min(((-cosine(embeddings[place], embeddings[k]), k) for k in kept), default=(2, 0))
        if by_hash[0] <= radius:
            found.append((by_hash[1], by_hash[0], 0))
        elif by_row[0] <= -least:
            found.append((by_row[1], by_row[0], 1))
        else:
            kept.append(place)
            found.append((NONE, 0, 0))
    return found


@given(
    neighbouring_hashes(),
    st.integers(0, 16),
    st.floats(0.3, 1.0),
    st.integers(0, 2**32),
    st.sampled_from([1, 7, 1024]),
)
@settings(max_examples=40, deadline=None)
def test_greedy_choice_equals_brute_force(hashes, radius, least, seed, block):
    rng = np.random.default_rng(seed)
    stored = rng.normal(size=(len(hashes), 5)).astype(np.float16)
    stored[rng.integers(len(hashes), size=5)] = stored[0]
    order = rng.permutation(len(hashes))
    with pytest.MonkeyPatch.context() as patch:
        package = "vlm_perception.curation.filtering"
        patch.setattr(f"{package}.near_duplicates.BLOCK", block)
        patch.setattr(f"{package}.embedding_measure.KEPT_AT_A_TIME", 2 * block)
        patch.setattr(f"{package}.embedding_measure.PAIRS_AT_A_TIME", 3)
        measures = HashMeasure(hashes, radius), EmbeddingMeasure(stored, order, least)
        told = []
        found = find_near_duplicates(measures, len(hashes), lambda *each: told.append(each))
    near = int((found.stays != NONE).sum())
    assert [sum(each) for each in zip(*told, strict=True)] == [len(hashes), near]
    columns = (found.stays, found.gaps, found.measures)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == by_brute_force(
        hashes, radius, stored[order], least
    )


def test_progress_counts_near_duplicates_that_are_found_at_the_end():
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=160)
    with StageProgress("01_filtered", console) as bar:
        bar.begin(2, 0)
        bar.advance({"kept": 8, "min_side": 2})
        bar.begin(8, 0, "finishing")
        bar.compared(8, 3)
    assert "2 min_side, 3 near-duplicates" in shown.getvalue()


def test_threshold_of_copies_keeps_to_the_rate_of_different_images():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 8))
    copies = images[:, None] + 0.2 * rng.normal(size=(60, 3, 8))
    for rate in (0.0, 0.05, 0.5):
        found = copy_threshold(images, copies, rate)
        others = [np.delete(images, each, axis=0) for each in range(len(images))]
        alike = [
            max(cosine(image, other) for other in rest) >= found.cosine
            for image, rest in zip(images, others, strict=True)
        ]
        assert found.accepted == np.mean(alike) <= rate
        lost = [
            cosine(c, i) < found.cosine for i, own in zip(images, copies, strict=True) for c in own
        ]
        assert found.rejected == np.mean(lost)
    # A lower one would accept more than that.
    lower = copy_threshold(images, copies, 0.5)
    assert lower.cosine < copy_threshold(images, copies, 0.0).cosine


@given(neighbouring_hashes(), st.sampled_from([0, 5, 8, 11, 16]), st.sampled_from([3, 1 << 22]))
@settings(max_examples=25, deadline=None)
def test_index_finds_the_nearest_at_any_radius(hashes, radius, most):
    half = len(hashes) // 2
    index = HashIndex(radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_perception.curation.filtering.hash_index.MOST_CANDIDATES", most)
        index.add(hashes[: half // 2])
        index.add(hashes[half // 2 : half])
        numbers, distances = index.nearest(hashes[half:])
    for query, number, found in zip(hashes[half:], numbers, distances, strict=True):
        near = min(((distance(query, h), n) for n, h in enumerate(hashes[:half])), default=(65, -1))
        assert (number, found) == ((near[1], near[0]) if near[0] <= radius else (NONE, 0))


def recompressed(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)


def test_copies_are_near_and_other_scenes_are_not():
    images = [street.image for street in Streets(range(5_000_000, 5_000_012), (320, 240))]
    copies = {
        "JPEG 50": recompressed,
        "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5),
        "larger": lambda image: cv2.resize(
            image, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC
        ),
    }

    def hashed(image):
        return perceptual_hash(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))

    hashes = [hashed(image) for image in images]
    for name, copy in copies.items():
        near = [[distance(hashed(copy(image)), other) <= 8 for other in hashes] for image in images]
        assert np.array_equal(near, np.eye(len(images))), name


def test_the_original_is_sharper_than_its_copies_of_any_size():
    (street,) = Streets(range(5_000_000, 5_000_001), (640, 480))
    sharp = image_figures(street.image).sharpness
    smaller = cv2.resize(street.image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    larger = cv2.resize(street.image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert image_figures(smaller).sharpness < sharp
    assert image_figures(cv2.GaussianBlur(street.image, (0, 0), 2)).sharpness < sharp
    assert image_figures(larger).sharpness < sharp
