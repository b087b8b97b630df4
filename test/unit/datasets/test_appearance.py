# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random cameras and streets change the picture, and not what is true of it."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streets import PROPERTY

from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance, open_appearance
from vlm_perception.datasets.roadworld.assets import LAMP_COLOURS
from vlm_perception.datasets.roadworld.cameras import photographed
from vlm_perception.datasets.roadworld.dressing import dressed
from vlm_perception.datasets.roadworld.mesh import Mesh
from vlm_perception.datasets.roadworld.photographs import PhotographsError
from vlm_perception.datasets.roadworld.renderer import Rendered, render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import Streets, look
from vlm_perception.datasets.roadworld.truth import describe
from vlm_perception.datasets.roadworld.world import Actor
from vlm_perception.media.image_errors import ImageError

SIZE = (320, 180)
RANDOM = Appearance(1.0)
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
    for seed, street in zip(range(2), Streets(range(2), SIZE, appearance=PLAIN), strict=True):
        drawn = render(sample_scene(seed), 0.0, *SIZE)
        np.testing.assert_array_equal(street.image, drawn.image)
        np.testing.assert_array_equal(street.rendered.ids, drawn.ids)
        assert street.truth == describe(sample_scene(seed), drawn)


def test_a_seed_gives_the_same_camera_and_another_seed_another() -> None:
    first, again = (list(Streets(range(2), SIZE, appearance=RANDOM)) for _ in range(2))
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
        street = look(sample_scene(seed), SIZE, appearance=RANDOM)
        world, surfaces = dressed(sample_scene(seed), 1.0)
        sharp = describe(world, render(world, 0.0, *SIZE, surfaces))
        visible = {thing.identity: thing.visible_share for thing in sharp.objects}
        for thing in street.truth.objects:
            x, y, w, h = thing.box
            shown = street.rendered.ids == thing.identity
            assert (x, y, w, h) == cv2.boundingRect(shown.view(np.uint8))
            assert thing.share == pytest.approx(shown.mean())
            assert 0 < thing.visible_share <= 1
            if shown.sum() > 100:
                assert thing.visible_share == pytest.approx(visible[thing.identity], abs=0.01)
        for name in ("time_of_day", "weather", "road"):
            assert street.truth.attributes[name] == sharp.attributes[name]


def test_a_random_street_has_the_same_objects_under_the_same_names() -> None:
    for seed in range(6):
        plain = sample_scene(seed)
        before = [actor.mesh.packed.colours.copy() for actor in plain.actors]
        street, _ = dressed(plain, 1.0)
        for mesh, colours in zip((actor.mesh for actor in plain.actors), before, strict=True):
            np.testing.assert_array_equal(mesh.packed.colours, colours)
        there, here = ([a for a in each.actors if a.label] for each in (plain, street))
        for one, other in zip(there, here, strict=True):
            assert (one.label, one.s, one.d, one.yaw) == (other.label, other.s, other.d, other.yaw)
            assert one.mesh.colour == other.mesh.colour
            lamps = one.mesh.packed.emissive
            was, now = one.mesh.packed.colours, other.mesh.packed.colours
            np.testing.assert_array_equal(was[lamps], now[lamps])
            for a, b in zip((was / 255).tolist(), (now / 255).tolist(), strict=True):
                (hue, colourful, bright), (turned, left, shade) = (
                    colorsys.rgb_to_hsv(*each) for each in (a, b)
                )
                if colourful > 0.3 and bright > 0.1:
                    assert abs((360 * (turned - hue) + 180) % 360 - 180) < 8
                assert abs(left - colourful) < 0.1
                assert 0.75 * bright < shade < 1.25 * bright + 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gaudy pictures of several shapes, and a cache of their own."""
    path = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for number, size in enumerate(((90, 160), (200, 100), (33, 34))):
        coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
        cv2.imwrite(str(path / f"{number}.png"), cv2.resize(coarse, size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield path


def test_photographs_are_seen_where_no_object_is(folder: Path) -> None:
    looks = open_appearance(1.0, photographs=folder)
    assert looks.photographs is not None
    changed = 0
    for seed in (14, 15):
        frames = []
        for photographs in (None, looks.photographs.pixels):
            street, surfaces = dressed(sample_scene(seed), 1.0, photographs)
            frames.append(render(street, 0.0, *SIZE, surfaces))
        plain, shown = frames
        np.testing.assert_array_equal(plain.ids, shown.ids)
        change = np.abs(plain.image.astype(int) - shown.image).max(axis=2)
        inside = cv2.erode((plain.ids > 0).view(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        # Between the smoothed edges of two faces a little shines through.
        assert (change[inside] == 0).mean() > 0.99
        assert change[inside].max() < 16
        changed += int((change > 0).sum())
    assert changed > SIZE[0] * SIZE[1] / 4
    assert open_appearance(1.0, photographs=folder).name == looks.name != RANDOM.name


def test_photographs_that_cannot_be_used_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PhotographsError, match="no images"):
        open_appearance(1.0, photographs=tmp_path)
    with pytest.raises(PhotographsError, match="is not there"):
        open_appearance(1.0, photographs=tmp_path / "none")
    with pytest.raises(PhotographsError, match="above 0"):
        open_appearance(0.0, photographs=folder)
    (tmp_path / "broken.jpg").write_bytes(b"none")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        open_appearance(1.0, photographs=tmp_path)


def test_some_of_the_scenes_stay_plain() -> None:
    mixed = Appearance(1.0, plain=0.5)
    same = []
    for world in map(sample_scene, range(6)):
        plain = render(world, 0.0, 64, 36)
        same.append(np.array_equal(mixed.render(world, 0.0, 64, 36).image, plain.image))
    assert 0 < sum(same) < len(same)


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
