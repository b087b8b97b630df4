# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world is repeatable, and what it says of a picture is what the picture shows."""

from __future__ import annotations

import itertools
from collections import Counter
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streets import HEIGHT, PROPERTY, WIDTH, street, streets

from vlm_perception.datasets.roadworld import assets
from vlm_perception.datasets.roadworld.files.clip import (
    RenderingStoppedError,
    cached_clip,
    frame,
)
from vlm_perception.datasets.roadworld.files.shards import NO_DISTANCE, dense_truth
from vlm_perception.datasets.roadworld.geometry import NEAR, Camera, Route, clip_near
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive, sample_scene
from vlm_perception.datasets.roadworld.truth import (
    PRESENT_SHARE,
    QUESTIONS,
    SMALL_SHARE,
    ObjectTruth,
    SceneTruth,
    captions,
    describe,
    object_labels_in,
)
from vlm_perception.datasets.roadworld.world import (
    LABELS,
    OBJECT_LABELS,
    Actor,
    Road,
    World,
    signal_state,
)

SCENES = 300
GRID = (16, 9)
EGO_LANE = -1.75


def standing(label: str, s: float, d: float = EGO_LANE) -> Actor:
    return Actor(label, assets.BUILDERS[label](np.random.default_rng(0)), s, d)


def light(state: str, s: float) -> Actor:
    mesh = assets.traffic_light(np.random.default_rng(0), state)
    return Actor(f"{state} traffic light", mesh, s, -4.5)


def truth_of(*actors: Actor, **changes: object) -> SceneTruth:
    """What is true of a straight road of two lanes with these things on it."""
    road = Road(Route(np.zeros(160)), 3.5, 1, "straight")
    world = World(0, road, "day", "clear", list(actors), **changes)
    return describe(world, render(world, 0.0, 640, 360))


def only(truth: SceneTruth, label: str) -> ObjectTruth:
    (thing,) = (thing for thing in truth.objects if thing.label == label)
    return thing


def test_a_seed_gives_the_same_pixels_in_any_order() -> None:
    seeds = [4, 17, 250, 10_000_001]
    forwards = [render(sample_scene(seed), 0.0, WIDTH, HEIGHT) for seed in seeds]
    for seed, first in reversed(list(zip(seeds, forwards, strict=True))):
        again = render(sample_scene(seed), 0.0, WIDTH, HEIGHT)
        assert np.array_equal(again.image, first.image)
        assert np.array_equal(again.ids, first.ids)
    assert len({picture.image.tobytes() for picture in forwards}) == len(seeds)


def test_a_drive_is_the_same_from_any_frame_and_never_stands_still() -> None:
    world = sample_drive(7, 4.0)
    times = [0.0, 1 / 30, 0.5, 3.0]
    images = [render(world, time, WIDTH, HEIGHT).image for time in times]
    for time, image in reversed(list(zip(times, images, strict=True))):
        assert np.array_equal(render(sample_drive(7, 4.0), time, WIDTH, HEIGHT).image, image)
    for before, after in itertools.pairwise(images):
        moved = np.abs(before.astype(int) - after).max(axis=2) > 40
        assert moved.sum() > 30, "more than the noise of the sensor"
    assert world.ego_s(3.0) == pytest.approx(3 * world.ego_speed)


@pytest.mark.slow
def test_boxes_and_shares_are_those_of_the_pixels() -> None:
    for scene in streets(100):
        ids, objects = scene.rendered.ids, scene.rendered.objects
        seen = [index for index in range(len(objects)) if (ids == index + 1).any()]
        assert [thing.label for thing in scene.truth.objects] == [objects[i].label for i in seen]
        for index, thing in zip(seen, scene.truth.objects, strict=True):
            rows, columns = np.nonzero(ids == index + 1)
            x, y, width, height = thing.box
            assert (x, x + width) == (columns.min(), columns.max() + 1)
            assert (y, y + height) == (rows.min(), rows.max() + 1)
            assert thing.share == len(rows) / ids.size
            assert 0 < thing.visible_share <= 1
            assert thing.distance == objects[index].s
        total = sum(thing.share for thing in scene.truth.objects)
        assert total == pytest.approx(np.mean(ids > 0))


def test_what_stands_before_an_object_hides_it_and_what_stands_behind_does_not() -> None:
    alone = only(truth_of(standing("car", 25)), "car")
    assert alone.visible_share == 1
    hidden = only(truth_of(standing("car", 25), standing("truck", 12, EGO_LANE + 1.2)), "car")
    assert 0 < hidden.visible_share < 0.8
    assert hidden.share / hidden.visible_share == pytest.approx(alone.share), "same silhouette"
    before = only(truth_of(standing("car", 25), standing("truck", 40)), "car")
    assert (before.visible_share, before.share) == (1, alone.share)
    gone = truth_of(standing("pedestrian", 40), standing("bus", 12))
    assert gone.labels == ("bus",)


def test_a_point_falls_where_a_pinhole_puts_it() -> None:
    # 90 degrees over 640 pixels: the focal length is 320 pixels.
    view = {"width": 640, "height": 360, "horizontal_fov": np.pi / 2}
    ahead = Camera(position=(0, 0, 1.5), yaw=0, pitch=0, **view)
    assert ahead.focal == pytest.approx(320)
    # 10 m ahead, 2 m to the left, 1 m below the lens: 64 pixels left, 32 below the middle.
    assert project(ahead, (10, 2, 0.5)) == pytest.approx((256, 212))
    # Looking along +y, what lies in +x is to the right.
    left = Camera(position=(1, 2, 1.5), yaw=np.pi / 2, pitch=0, **view)
    assert project(left, (4, 12, 1.5)) == pytest.approx((320 + 96, 180))
    # Bent down by 45 degrees, the lens points at the ground as far away as it is high.
    down = Camera(position=(0, 0, 1.5), yaw=0, pitch=np.pi / 4, **view)
    assert project(down, (1.5, 0, 0)) == pytest.approx((320, 180))
    assert project(down, (1e9, 0, 0))[1] == pytest.approx(down.horizon) == 180 - 320


def project(camera: Camera, point: tuple[float, float, float]) -> tuple[float, float]:
    u, v = camera.to_pixels(camera.to_camera(np.array([point], float)))[0]
    return u, v


coordinate = st.floats(-50, 50, allow_subnormal=False)


@PROPERTY
@given(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=3, max_size=8))
def test_clipping_keeps_what_is_in_front_of_the_near_plane(corners: list[tuple]) -> None:
    polygon = np.array(corners)
    front = polygon[:, 2] >= NEAR
    clipped = clip_near(polygon)
    assert clipped.shape[1] == 3
    assert (clipped[:, 2] >= NEAR - 1e-6).all()
    kept = [tuple(point) for point in clipped if tuple(point) in set(corners)]
    assert [p for p in kept if p[2] > NEAR] == [c for c in corners if c[2] > NEAR], "in order"
    crossings = int((front != np.roll(front, -1)).sum())
    assert len(clipped) == front.sum() + crossings
    if len(clipped):
        assert (clipped.min(axis=0) >= polygon.min(axis=0) - 1e-6).all()
        assert (clipped.max(axis=0) <= polygon.max(axis=0) + 1e-6).all()


def test_clipping_cuts_a_triangle_where_the_plane_is() -> None:
    triangle = np.array([[0.0, 0, NEAR - 1], [0, 0, NEAR + 1], [4, 0, NEAR + 1]])
    expected = [[0, 0, NEAR], [0, 0, NEAR + 1], [4, 0, NEAR + 1], [2, 0, NEAR]]
    assert clip_near(triangle) == pytest.approx(np.array(expected))


counts = st.dictionaries(st.sampled_from(OBJECT_LABELS), st.integers(1, 3))
attributes = st.fixed_dictionaries(
    {name: st.sampled_from(choices) for name, (_, choices) in QUESTIONS.items()}
)


@PROPERTY
@given(counts, attributes, st.sampled_from(OBJECT_LABELS), st.integers(0, 1000))
def test_captions_name_what_is_there_and_nothing_else(
    present: dict[str, int], values: dict[str, str], speck: str, seed: int
) -> None:
    shares = dict.fromkeys(present, 0.01)
    sizes = [(label, 0.01) for label, count in present.items() for _ in range(count)]
    sizes.append((speck, PRESENT_SHARE / 2))
    things = tuple(ObjectTruth(label, (0, 0, 1, 1), size, 1, 10, 0) for label, size in sizes)
    texts = captions(SceneTruth(things, shares, values), np.random.default_rng(seed))
    assert len(set(texts)) == len(texts) >= 2
    for text in texts:
        # The car that this wording speaks of is the one that carries the camera.
        assert object_labels_in(text.removeprefix("a camera on a car sees ")) == set(present)


@pytest.mark.slow
def test_every_label_and_every_answer_occurs_and_none_rules() -> None:
    truths = [scene.truth for scene in streets(SCENES)]
    labels = Counter(label for truth in truths for label in truth.labels)
    answers = Counter(pair for truth in truths for pair in truth.attributes.items())
    possible = {(name, choice) for name, (_, choices) in QUESTIONS.items() for choice in choices}
    assert set(answers) == possible
    assert set(labels) == set(LABELS)
    assert min(labels.values()) >= 0.05 * SCENES
    assert max(labels.values()) <= 0.7 * SCENES
    present = [t.share for truth in truths for t in truth.objects if t.share >= PRESENT_SHARE]
    assert np.mean(np.array(present) < SMALL_SHARE) >= 0.3


@pytest.mark.parametrize(
    ("name", "expected", "actors"),
    [
        ("lead_vehicle", "near", [standing("car", 12), standing("truck", 30)]),
        ("lead_vehicle", "far", [standing("car", 25)]),
        ("lead_vehicle", "none", [standing("car", 12, -EGO_LANE)]),
        ("pedestrian_in_path", "yes", [standing("pedestrian", 12)]),
        ("pedestrian_in_path", "no", [standing("pedestrian", 12, EGO_LANE - 3)]),
        ("traffic_light", "red", [light("green", 25), light("red", 12)]),
        ("traffic_light", "none", [standing("car", 12)]),
        ("construction", "yes", [standing("cone", 8)]),
        (
            "traffic",
            "heavy",
            [standing("car", s, d) for s, d in ((9, 2), (12, -5), (14, -1.5), (20, 4))],
        ),
        ("traffic", "none", [standing("bicycle", 9)]),
    ],
)
def test_an_answer_follows_from_what_stands_where(
    name: str, expected: str, actors: list[Actor]
) -> None:
    assert truth_of(*actors).attributes[name] == expected


def test_actors_move_along_their_heading_and_lights_change() -> None:
    walker = Actor("pedestrian", standing("pedestrian", 10).mesh, 10, -5, np.pi / 2, 1.5)
    assert (walker.at(2.0).s, walker.at(2.0).d) == pytest.approx((10, -2))
    signals = {state: light(state, 20).mesh for state in ("red", "yellow", "green")}
    signal = Actor("traffic light", signals["red"], 20, -4.5, signals=signals, phase=5.0)
    assert [signal.at(t).label.split()[0] for t in (0, 2, 8, 9)] == [
        "red",
        "green",
        "yellow",
        "red",
    ]
    assert signal.at(8).mesh is signals["yellow"]
    shown = [signal_state(t) for t in np.arange(0, 14, 0.5)]
    assert Counter(shown) == {"red": 12, "green": 12, "yellow": 4}


def test_the_truth_of_patches_adds_up_to_that_of_the_picture() -> None:
    # 160 x 90 pixels are as many as there are samples: nothing is lost.
    for scene in streets(60):
        rendered = scene.rendered
        distances = [actor.s for actor in rendered.objects]
        coverage, nearest = dense_truth(rendered, distances, GRID)
        assert coverage.shape == (GRID[0] * GRID[1], len(OBJECT_LABELS))
        assert coverage.sum(axis=1).max() <= 100
        for column, label in enumerate(OBJECT_LABELS):
            same = [t.share for t in scene.truth.objects if t.label == label]
            assert coverage[:, column].sum() == pytest.approx(sum(same) * WIDTH * HEIGHT)
        assert np.array_equal(nearest == NO_DISTANCE, coverage.sum(axis=1) == 0)
        if (nearest != NO_DISTANCE).any():
            seen = [thing.distance for thing in scene.truth.objects]
            assert nearest.min() == int(np.clip(2 * min(seen), 0, NO_DISTANCE - 1))


def test_patches_show_what_their_pixels_show() -> None:
    scene = next(s for s in streets(SCENES) if "bus" in s.truth.labels)
    distances = [actor.s for actor in scene.rendered.objects]
    coverage, _ = dense_truth(scene.rendered, distances, GRID)
    buses = [i + 1 for i, actor in enumerate(scene.rendered.objects) if actor.label == "bus"]
    pixels = np.isin(scene.rendered.ids, buses)
    by_patch = pixels.reshape(GRID[1], 10, GRID[0], 10).sum(axis=(1, 3)).ravel()
    assert np.array_equal(coverage[:, OBJECT_LABELS.index("bus")], by_patch)


@pytest.mark.slow
def test_a_clip_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cached_clip(128, 72, 10, 0.5, 3)
    assert path.is_relative_to(tmp_path)
    stored = path.stat()
    assert cached_clip(128, 72, 10, 0.5, 3) == path
    assert path.stat().st_mtime_ns == stored.st_mtime_ns
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert cached_clip(128, 72, 10, 0.3, 3, or_longer=True) == path
    said: list[tuple[int, int]] = []
    other = cached_clip(
        128, 72, 10, 0.2, 4, or_longer=True, report=lambda done, count: said.append((done, count))
    )
    assert other != path and said == sorted(said) and {*said} == {(0, 2), (1, 2), (2, 2)}
    assert cached_clip(128, 72, 10, 0.1, 3) not in (path, other)
    video = cv2.VideoCapture(str(path))
    for index in range(5):
        good, image = video.read()
        assert good
        drawn = frame(index, width=128, height=72, fps=10, seconds=0.5, seed=3)
        assert np.abs(image[..., ::-1].astype(int) - drawn).mean() < 12, "lossy, but this frame"
    assert not video.read()[0]


def test_weather_and_night_change_the_picture_and_not_the_street() -> None:
    scene = street(0)
    seen = {}
    for weather, time_of_day in itertools.product(("clear", "rain", "fog"), ("day", "night")):
        world = sample_scene(0)
        world.weather, world.time_of_day = weather, time_of_day
        rendered = render(world, 0.0, WIDTH, HEIGHT)
        assert np.array_equal(rendered.ids, scene.rendered.ids)
        seen[weather, time_of_day] = rendered.image.astype(float)
        truth = describe(world, rendered)
        assert {"rain", "fog", "night"} & set(truth.labels) == {weather, time_of_day} & set(LABELS)
    assert seen["clear", "night"].mean() < 0.6 * seen["clear", "day"].mean()
    assert seen["fog", "day"].std() < seen["clear", "day"].std()


@pytest.mark.slow
def test_a_clip_ends_at_any_moment_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = [0]

    def report(images: int, _all: int) -> None:
        done[0] = images

    # Of so large images one is always being sent.
    with pytest.raises(RenderingStoppedError):
        cached_clip(1280, 720, 30, 20.0, 3, stopped=lambda: done[0] > 10, report=report)
    assert not active_children()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
