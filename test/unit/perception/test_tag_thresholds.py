# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds from images that nobody annotated: found where there is a label, else out of reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlm_perception.perception.vision.score_groups import one_group, two_groups
from vlm_perception.perception.vision.tag_thresholds import Verdict, find_cut

Scores = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def scores_of(
    rng: np.random.Generator, shown: int, absent: int, *, skew: float = 1.0, distance: float = 8.0
) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores whose lower group is skewed to the right, and which images show the label."""
    present = rng.permutation(np.arange(shown + absent) < shown)
    null = rng.normal(size=len(present))
    null = np.where(null > 0, null * skew, null)
    return np.where(present, distance + 1.5 * rng.normal(size=len(present)), null), present


@pytest.mark.parametrize("prevalence", [0.03, 0.1, 0.3])
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_label_that_stands_out_is_found(prevalence: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shown = round(600 * prevalence)
    scores, present = scores_of(rng, shown, 600 - shown)
    cut = find_cut(scores)
    assert cut.verdict is Verdict.FIRES
    fires = scores >= cut.at
    assert fires[~present].mean() <= 0.02
    assert 2 * (fires & present).sum() >= 0.9 * (fires.sum() + present.sum())


@settings(max_examples=15, deadline=None)
@given(seed=seeds, skew=st.floats(1.0, 1.3), count=st.integers(100, 600))
def test_a_label_on_no_image_never_fires(seed: int, skew: float, count: int) -> None:
    scores, _ = scores_of(np.random.default_rng(seed), 0, count, skew=skew)
    cut = find_cut(scores)
    # With few images chance makes a shoulder now and then; then it fires on hardly any.
    assert cut.at > scores.max() or (scores >= cut.at).mean() <= 0.06
    if cut.verdict is not Verdict.FIRES:
        assert cut.at > scores.max()


@settings(max_examples=15, deadline=None)
@given(
    seed=seeds,
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    shown=st.sampled_from([0, 60, 180]),
)
def test_scale_and_shift_of_the_scores_do_not_matter(
    seed: int, scale: float, shift: float, shown: int
) -> None:
    scores, _ = scores_of(np.random.default_rng(seed), shown, 600 - shown)
    plain, moved = find_cut(scores), find_cut(scores * scale + shift)
    assert moved.verdict is plain.verdict
    assert moved.at == pytest.approx(plain.at * scale + shift, rel=1e-4, abs=1e-4 * scale)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=100, max_size=120),
)
def test_whatever_the_scores_a_label_that_does_not_fire_has_a_threshold_above_all(
    values: list[float],
) -> None:
    scores = np.array(values)
    cut = find_cut(scores)
    if cut.verdict is not Verdict.FIRES:
        assert cut.at > scores.max()
    else:
        assert cut.at > np.median(scores)


def test_what_a_verdict_rests_on_is_said() -> None:
    rng = np.random.default_rng(0)
    few, _ = scores_of(rng, 5, 595)
    assert find_cut(few).why == "too few images stand out"
    once, present = scores_of(rng, 60, 540)
    in_one_go = np.concatenate([once[~present], once[present]])
    assert find_cut(in_one_go).why == "the images that stand out were taken in one go"
    most, _ = scores_of(rng, 480, 120)
    assert find_cut(most).verdict is Verdict.UNKNOWN
    assert find_cut(np.full(200, 0.25)).why == "most are equal"
    assert find_cut(np.full(200, np.inf)).at == np.inf
    never, _ = scores_of(rng, 0, 600)
    assert find_cut(never).verdict is Verdict.NEVER


def test_a_recording_that_stands_out_as_a_whole_is_another_place() -> None:
    scores, present = scores_of(np.random.default_rng(4), 180, 420)
    assert find_cut(scores, recordings=present.astype(np.int64)).verdict is Verdict.UNKNOWN
    other = np.arange(600) // 300
    assert find_cut(scores, recordings=other).verdict is Verdict.FIRES


def test_images_that_stand_out_for_every_prompt_are_no_evidence() -> None:
    rng = np.random.default_rng(1)
    scores, present = scores_of(rng, 60, 540)
    # The lower group follows the light as all prompts do, and the bright images lie far out.
    light = scores + 0.1 * rng.normal(size=len(scores))
    assert find_cut(scores, light[:, np.newaxis]).why == (
        "negative prompts fire on the same images"
    )
    other = rng.normal(size=(len(scores), 3))
    assert find_cut(scores, other).verdict is Verdict.FIRES
    assert (scores >= find_cut(scores, other).at)[present].mean() > 0.9


def test_two_normal_groups_are_found_again_and_beat_one() -> None:
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.normal(size=700), rng.normal(6.0, 1.5, size=300)])
    groups = two_groups(scores)
    assert groups is not None
    found = (groups.share, groups.low_mean, groups.low_spread, groups.high_mean, groups.high_spread)
    assert found == pytest.approx((0.3, 0.0, 1.0, 6.0, 1.5), abs=0.25)
    assert groups.low_mean < groups.crossing < groups.high_mean
    assert groups.log_likelihood > one_group(scores) + 20.0


def test_of_normal_scores_one_group_is_as_likely_as_the_normal_distribution() -> None:
    normal = np.random.default_rng(3).normal(size=2000)
    exact = float(
        (-0.5 * ((normal - normal.mean()) / normal.std()) ** 2).sum()
        - len(normal) * (np.log(normal.std()) + 0.5 * np.log(2 * np.pi))
    )
    # Skewness and tails are free besides: half a unit each, by Wilks.
    assert exact - 0.1 <= one_group(normal) <= exact + 6.0
