# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random cameras change the picture, and neither the street nor the truth."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streets import PROPERTY

from vlm_perception.datasets.roadworld.appearance import photographed
from vlm_perception.datasets.roadworld.assets import LAMP_COLOURS
from vlm_perception.datasets.roadworld.mesh import Mesh
from vlm_perception.datasets.roadworld.renderer import Rendered, render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import Streets, look
from vlm_perception.datasets.roadworld.truth import describe
from vlm_perception.datasets.roadworld.world import Actor

SIZE = (320, 180)
HUES = {"red": (-25, 20), "yellow": (32, 75), "green": (100, 175)}
STRENGTHS = st.floats(0.01, 1.0)
SEEDS = st.integers(0, 10_000)
CAMERAS = settings(PROPERTY, max_examples=25)


def painted(colour: tuple[int, int, int], size: tuple[int, int] = (160, 90)) -> Rendered:
    """A frame of a light grey that one object of one colour stands in."""
    width, height = size
    image = np.full((height, width, 3), 150, np.uint8)
    ids = np.zeros((height, width), np.uint8)
    place = slice(height // 4, 3 * height // 4), slice(width // 4, 3 * width // 4)
    image[place], ids[place] = colour, 1
    return Rendered(image, ids, [Actor("car", Mesh(), 10.0, 0.0)], [2 * int(ids.sum())])


def test_without_strength_the_renderer_has_the_last_word() -> None:
    for seed, street in zip(range(2), Streets(range(2), SIZE, appearance=0.0), strict=True):
        drawn = render(sample_scene(seed), 0.0, *SIZE)
        np.testing.assert_array_equal(street.image, drawn.image)
        np.testing.assert_array_equal(street.rendered.ids, drawn.ids)
        assert street.truth == describe(sample_scene(seed), drawn)


def test_a_seed_gives_the_same_camera_and_another_seed_another() -> None:
    first, again = (list(Streets(range(2), SIZE, appearance=1.0)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.truth == other.truth
    frame = painted((255, 40, 30))
    one, other = (photographed(frame, seed, 1.0) for seed in (1, 2))
    assert (one.ids != other.ids).any()
    noise = photographed(frame, 1, 1.0, time=0.1)
    np.testing.assert_array_equal(one.ids, noise.ids)
    assert (one.image != noise.image).any()


def test_the_truth_is_that_of_the_changed_pixels() -> None:
    for seed in range(2):
        street = look(sample_scene(seed), SIZE, appearance=1.0)
        plain = look(sample_scene(seed), SIZE)
        visible = {thing.identity: thing.visible_share for thing in plain.truth.objects}
        for thing in street.truth.objects:
            x, y, w, h = thing.box
            shown = street.rendered.ids == thing.identity
            assert (x, y, w, h) == cv2.boundingRect(shown.view(np.uint8))
            assert thing.share == pytest.approx(shown.mean())
            assert 0 < thing.visible_share <= 1
            if shown.sum() > 100:
                assert thing.visible_share == pytest.approx(visible[thing.identity], abs=0.01)
        for name in ("time_of_day", "weather", "road"):
            assert street.truth.attributes[name] == plain.truth.attributes[name]


@CAMERAS
@given(SEEDS, STRENGTHS)
def test_identities_move_with_their_pixels(seed: int, strength: float) -> None:
    taken = photographed(painted((255, 40, 30)), seed, strength)
    red = taken.image[..., 0].astype(int) - taken.image[..., 2] > 60
    is_object = taken.ids == 1
    # Noise, blur and the file's coarse colours leave the place of an edge open by some pixels.
    near = cv2.dilate(is_object.view(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    inside = cv2.erode(is_object.view(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    assert inside.any()
    assert red[inside].mean() > 0.99
    assert red[~near].mean() < 0.01


@CAMERAS
@given(SEEDS, STRENGTHS, st.sampled_from(sorted(LAMP_COLOURS)))
def test_a_light_keeps_its_colour(seed: int, strength: float, name: str) -> None:
    taken = photographed(painted(LAMP_COLOURS[name]), seed, strength)
    inside = cv2.erode((taken.ids == 1).view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    red, green, blue = (taken.image[inside].mean(axis=0) / 255).tolist()
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    turned = (360 * hue + 90) % 360 - 90
    low, high = HUES[name]
    assert low < turned < high
    assert saturation > 0.4
