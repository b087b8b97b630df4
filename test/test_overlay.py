# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes drawn onto images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vlm_perception.perception.overlay import LABEL_COLOURS, RED, draw_scene
from vlm_perception.types import Attribute, Region, Scene, Status, Tag

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


def test_hazard_is_red_and_every_status_has_a_colour() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)

    def reds(scene: Scene) -> int:
        return int((draw_scene(image, scene)[:100, 400:880] == RED).all(axis=2).sum())

    assert reds(SCENE) == 0
    assert reds(dataclasses.replace(SCENE, hazards=("pedestrian",))) > 100
    for status in Status:
        draw_scene(image, dataclasses.replace(SCENE, status=status, reason="because"))
