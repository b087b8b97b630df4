# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes drawn onto images."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from support import jpeg_corpora

from vlm_perception.messages import tables
from vlm_perception.messages.rosbags import ROSBAGS, message_types
from vlm_perception.perception.rendering.markers import scene_shapes
from vlm_perception.perception.rendering.overlay import LABEL_COLOURS, RED, draw_scene
from vlm_perception.perception.rendering.shown import shown, shown_objects, title
from vlm_perception.replay.recordings.image_messages import compressed_image
from vlm_perception.replay.report.overlay_video import write_overlay
from vlm_perception.types import (
    Attribute,
    LocatedBox,
    LocatedObject,
    LocatedObjects,
    Region,
    Scene,
    Status,
    Tag,
)

SCENE = Scene(
    stamp_ns=1,
    frame_id="camera",
    run_id="",
    sequence=0,
    bundle_digest="",
    image_size=(1280, 720),
    vocabulary_version=1,
    instruction_version=0,
    tags=(Tag(0, "car", 0.97), Tag(2, "a label that is far too long for its place", 1.0)),
    regions=(Region(0, "car", 0.9, 400, 300, 200, 120),),
    attributes=(Attribute("weather", "rain", ("clear", "rain"), (0.2, 0.8)),),
    hazards=(),
    conflicts=(),
    caption="a car in the rain " * 30,
    keyframe_stamp_ns=1,
    embedding_age=0.01,
    reasoning_age=0.1,
    keyframe_age=-1.0,
    latency={"capture_to_scene": 0.03},
    rung=0,
    status=Status.OK,
    reason="",
)


@pytest.mark.parametrize(
    "size", [(1, 1), (3, 200), (97, 96), (320, 180), (720, 1280), (1280, 720), (1918, 1079)]
)
def test_any_size_is_drawn_on_a_copy(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 120, np.uint8)
    drawn = draw_scene(image, SCENE)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 120).all()
    np.testing.assert_array_equal(drawn, draw_scene(image, SCENE))


def test_box_lies_where_the_region_is_also_on_a_resized_image() -> None:
    drawn = draw_scene(np.zeros((360, 640, 3), np.uint8), SCENE)
    assert tuple(drawn[180, 200]) == LABEL_COLOURS[0]
    assert tuple(drawn[209, 250]) == LABEL_COLOURS[0]
    assert not drawn[180, 250].any()


def test_labels_of_boxes_are_covered_by_nothing_and_cover_nothing() -> None:
    regions = (
        Region(0, "car", 0.9, 60, 90, 200, 120),
        Region(0, "car", 0.9, 40, 60, 80, 60),
        Region(0, "car", 0.9, 1200, 0, 80, 300),
        Region(0, "car", 0.9, 600, 10, 80, 300),
    )
    scene = dataclasses.replace(SCENE, hazards=("car",), conflicts=("a | b",))
    for width, height in [(1280, 720), (640, 360), (320, 240)]:
        image = np.full((height, width, 3), 120, np.uint8)
        bare = draw_scene(image, scene_of(scene, ()))
        for region in regions:
            drawn = draw_scene(image, scene_of(scene, (region,)))
            changed = (drawn != bare).any(axis=2)
            chip = (drawn == LABEL_COLOURS[0]).all(axis=2) & changed
            rows = np.flatnonzero(chip.sum(axis=1) > 25)
            assert len(rows) >= 8, "the label lies open"
            columns = np.flatnonzero(chip[rows].any(axis=0))
            assert columns.max() < width
            below = bare[rows][:, columns]
            assert not ((below > 200).all(axis=2)).any(), "it covers no letters"


def scene_of(scene: Scene, regions: tuple[Region, ...]) -> Scene:
    return dataclasses.replace(scene, regions=regions)


def test_a_small_image_has_fewer_panels_with_letters_of_the_same_size() -> None:
    def dark(size: tuple[int, int]) -> int:
        drawn = draw_scene(np.full((size[1], size[0], 3), 255, np.uint8), SCENE)
        return int((drawn[: size[1] // 4] < 120).all(axis=2).sum())

    assert dark((640, 360)) > 5000
    assert dark((320, 240)) == 0


def test_wherever_followed_objects_are_they_are_drawn_within_the_image() -> None:
    far = (-3e38, -1.0, 0.5, 639.5, 3e38)
    places = [(x, 10.0, width, 3e38) for x in far for width in far]
    objects = tuple(
        LocatedObject(i, "cone\n", LocatedBox(*place, math.nan)) for i, place in enumerate(places)
    )
    located = LocatedObjects(1, "camera", "run", "", (640, 360), objects)
    for each in shown_objects(located):
        assert 0 <= each.box.x <= each.box.x + each.box.width <= 640.1
        assert title(each) == f"#{each.id} cone"
    assert draw_scene(np.zeros((90, 160, 3), np.uint8), SCENE, located).shape == (90, 160, 3)


@pytest.mark.parametrize(
    "odd",
    [
        {"caption": "word " * 300_000},
        {"caption": "w" * 3_000_000, "reason": "r" * 3_000_000},
        {"caption": "\x1b[31m\u202e\0 歩行者", "tags": (Tag(0, "\n" * 10**6, float("nan")),) * 3},
        {"tags": (Tag(0, "x" * 1000, 0.5),) * 100_000, "hazards": ("h" * 1000,) * 100_000},
        {"regions": (Region(0, "r" * 10_000, 0.5, 2**32 - 1, 0, 2**32 - 1, 9),) * 1000},
        {"regions": (Region(0, "r", float("nan"), 9, 9, 2**32 - 1, 2**32 - 1),)},
        {"regions": (Region(65535, "r", 0.5, 0, 0, 1, 1),), "image_size": (2**32 - 1, 1)},
        {"image_size": (0, 0), "latency": {"capture_to_scene": float("inf")}},
        {"attributes": (Attribute("n" * 10**5, "v" * 10**5, ("v",), (float("nan"),)),) * 1000},
    ],
)
def test_whatever_a_message_holds_is_drawn_and_marked_within_bounds(odd: dict[str, Any]) -> None:
    scene = dataclasses.replace(SCENE, **odd)
    assert draw_scene(np.full((360, 640, 3), 120, np.uint8), scene).shape == (360, 640, 3)
    short = shown(scene)
    assert len(short.caption) <= 1000 and short.caption.isprintable()
    assert all(region.x + region.width <= scene.image_size[0] for region in short.regions)
    shapes = scene_shapes(scene, None) if scene.image_size[0] else []
    assert sum(len(shape.text) for shape in shapes) < 50_000


def test_what_is_shown_of_an_ordinary_scene_is_all_of_it() -> None:
    ordinary = dataclasses.replace(SCENE, caption="a car in the rain")
    assert shown(ordinary) == ordinary


def test_hazard_is_red_and_every_status_has_a_colour() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)

    def reds(scene: Scene) -> int:
        return int((draw_scene(image, scene)[:100, 400:880] == RED).all(axis=2).sum())

    assert reds(SCENE) == 0
    assert reds(dataclasses.replace(SCENE, hazards=("pedestrian",))) > 100
    for status in Status:
        draw_scene(image, dataclasses.replace(SCENE, status=status, reason="because"))


def test_a_video_shows_whole_images_as_the_nodes_see_them(tmp_path, caplog) -> None:
    whole = jpeg_corpora.whole("plain")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    part = exif.tobytes()
    turned = whole[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + whole[2:]
    one = LocatedObject(1, "car", LocatedBox(0.0, 0.0, 9.0, 9.0, 0.5))
    objects = tuple(
        dataclasses.replace(one, id=number) for number in range(1, tables.MOST_LOCATED + 2)
    )
    too_many = LocatedObjects(1, "camera", "run", "digest", (640, 480), objects)
    messages = {
        "image/compressed": [
            compressed_image(stamp, "camera", file)
            for stamp, file in enumerate((turned, whole[:9000] + whole[-9000:], whole), 1)
        ],
        "scene": [tables.SCENE.write(SCENE, ROSBAGS)],
        "locations": [tables.LOCATIONS.write(too_many, ROSBAGS, sequence=0)],
    }
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, made in messages.items():
            kind = made[0].__msgtype__
            topic = writer.add_connection(name, kind, typestore=message_types())
            for stamp, message in enumerate(made, 1):
                writer.write(topic, stamp, message_types().serialize_cdr(message, kind))
    video = tmp_path / "overlay.mp4"
    assert write_overlay(tmp_path / "bag" / "bag.mcap", video, rate_hz=10.0).frames == 2
    assert f"at most {tables.MOST_LOCATED} are accepted" in caplog.text
    picture = cv2.VideoCapture(str(video)).read()[1]
    assert picture.shape == (jpeg_corpora.HEIGHT, jpeg_corpora.WIDTH, 3)
