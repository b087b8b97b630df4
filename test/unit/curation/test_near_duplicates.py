# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Near-duplicates are found exactly, and what a hash is made of decides which copies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.curation.filtering.hash_index import NONE, HashIndex
from vlm_perception.curation.filtering.image_figures import image_figures, perceptual_hash
from vlm_perception.curation.filtering.near_duplicates import find_near_duplicates
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


def by_brute_force(hashes, radius):
    kept, found = [], []
    for place, each in enumerate(hashes):
        near = min(((distance(each, hashes[k]), k) for k in kept), default=(65, NONE))
        if near[0] <= radius:
            found.append((near[1], near[0]))
        else:
            kept.append(place)
            found.append((NONE, 0))
    return found


@given(neighbouring_hashes(), st.integers(0, 16), st.sampled_from([1, 7, 1024]))
@settings(max_examples=40, deadline=None)
def test_greedy_choice_equals_brute_force(hashes, radius, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_perception.curation.filtering.near_duplicates.BLOCK", block)
        stays, distances = find_near_duplicates(hashes, radius)
    pairs = zip(stays.tolist(), distances.tolist(), strict=True)
    assert list(pairs) == by_brute_force(hashes, radius)


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
