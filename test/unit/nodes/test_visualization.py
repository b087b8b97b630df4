# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Markers stand where the camera sees what they mark."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml
from sensor_msgs.msg import CameraInfo
from support.places import CONFIG
from visualization_msgs.msg import Marker

from vlm_perception.nodes.io.shown.detections_output import detections
from vlm_perception.nodes.io.shown.visualization_output import markers, pinhole
from vlm_perception.perception.fusion.scene import SceneFusion
from vlm_perception.types import (
    Followed,
    LocatedBox,
    LocatedObject,
    LocatedObjects,
    Region,
    Scene,
)

SIZE = (640, 360)
REGION = Region(5, "pedestrian", 0.9, 320, 90, 64, 180)


def located(*states: Followed) -> LocatedObjects:
    """A cone in each of these states."""
    box = LocatedBox(10.0, 20.0, 30.0, 40.0, 0.8)
    objects = tuple(LocatedObject(5 + i, "the cone", box, each) for i, each in enumerate(states))
    return LocatedObjects(7, "camera", "run", "", SIZE, objects)


def scene() -> Scene:
    empty = SceneFusion().heartbeat(0.0, camera_alive=True)
    return replace(
        empty, frame_id="camera", image_size=SIZE, regions=(REGION,), hazards=("pedestrian",)
    )


def calibrated(width: int, height: int, focal: float) -> CameraInfo:
    k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, k=k)


def test_a_box_stands_at_its_depth_where_the_calibration_puts_it() -> None:
    # Calibrated at twice the size of the images.
    camera = pinhole(calibrated(1280, 720, 1000.0), SIZE)
    built = markers(scene(), camera, 4.0).markers
    assert built[0].action == Marker.DELETEALL
    (box,) = (marker for marker in built if marker.ns == "regions")
    corners = [(point.x, point.y, point.z) for point in box.points]
    assert corners[0] == pytest.approx((0.0, -90 / 500 * 4, 4.0))
    assert corners[2] == pytest.approx((64 / 500 * 4, 90 / 500 * 4, 4.0))
    assert corners[0] == corners[-1] and (box.color.r, box.color.b) == pytest.approx((1.0, 0.3))
    (label,) = (marker for marker in built if marker.ns == "labels")
    assert label.text == "pedestrian 0.90"


def test_what_is_followed_is_marked_by_its_id_until_it_is_lost() -> None:
    followed = located(Followed.FOUND, Followed.MISSED, Followed.LOST)
    built = markers(scene(), None, 4.0, followed).markers
    labels = {each.id: each for each in built if each.ns == "followed labels"}
    assert {number: each.text for number, each in labels.items()} == {
        5: "#5 the cone 0.80",
        6: "#6 the cone 0.80",
    }
    assert labels[5].color != labels[6].color
    elsewhere = replace(followed, image_size=(320, 180))
    names = {each.ns for each in markers(scene(), None, 4.0, elsewhere).markers}
    assert "followed" not in names, "boxes of another image are nowhere in this one"


def test_without_a_calibration_the_image_fills_its_plane() -> None:
    assert pinhole(CameraInfo(), SIZE) is None
    (box,) = (marker for marker in markers(scene(), None, 2.0).markers if marker.ns == "regions")
    assert (box.points[0].x, box.points[0].y) == pytest.approx((0.0, -90 / 640 * 2))


def test_regions_are_detections_where_vision_msgs_is_installed() -> None:
    pytest.importorskip("vision_msgs.msg")
    array = detections(scene(), located(Followed.FOUND, Followed.MISSED))
    assert array.header.frame_id == "camera"
    detection, followed = array.detections
    assert (detection.id, followed.id) == ("", "5")
    assert followed.results[0].hypothesis.class_id == "the cone"
    assert followed.header.stamp.nanosec == 7 and followed.bbox.center.position.x == 25
    assert detection.results[0].hypothesis.class_id == "pedestrian"
    assert detection.results[0].hypothesis.score == pytest.approx(0.9)
    center = detection.bbox.center.position
    assert (center.x, center.y) == (320 + 32, 90 + 90)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (64, 180)


def fields(name: str) -> set[str]:
    text = (CONFIG.parent / "msg" / f"{name}.msg").read_text()
    return set(re.findall(r"^[\w/\[\]]+ (\w+)$", text, re.MULTILINE))


def test_foxglove_shows_topics_and_fields_that_exist() -> None:
    layout = json.loads((CONFIG / "foxglove.json").read_text())
    panels = layout["configById"]
    places: list[object] = [layout["layout"]]
    shown = set()
    while places:
        place = places.pop()
        if isinstance(place, dict):
            places += [place["first"], place["second"]]
        else:
            shown.add(place)
    assert shown == set(panels)
    assert panels["Image!overlay"]["imageMode"]["imageTopic"] == "/scene/overlay"
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    types = {"/scene": "SemanticScene", "/reasoning": "SceneReasoning"}
    for topic, field in (path.split(".") for path in paths):
        assert field in fields(types[topic]), (topic, field)


def test_rviz_shows_what_scene_fusion_publishes() -> None:
    config = yaml.safe_load((CONFIG / "perception.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    topics = {
        d["Topic"]["Value"]: d["Topic"]["Reliability Policy"] for d in displays if "Topic" in d
    }
    assert topics == {"scene/overlay": "Best Effort", "scene/markers": "Reliable"}
    scene_display = next(d for d in displays if d["Name"] == "Scene")
    shown = markers(scene(), None, 2.0, located(Followed.FOUND)).markers
    namespaces = {marker.ns for marker in shown if marker.ns}
    assert set(scene_display["Namespaces"]) == namespaces
