# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images, scenes and reasonings as entities of rerun, and how they are laid out on its screen.

| entity | what it shows |
|---|---|
| `camera/image`, `camera/regions` | the image, and a box for each region |
| `camera/followed` | a box for each followed object, with its id and phrase |
| `tags/LABEL` | score of the tag; a gap while there is none |
| `answers/NAME`, `probability/NAME` | an answer as a time line; how sure it is |
| `drift`, `keyframes` | distance from the anchor; the same where a frame became a key frame |
| `status` | how far the scene may be trusted, as a time line |
| `events` | captions, hazards, conflicts, and changes of the status |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_message import to_rgb
from vlm_perception.messages.codec import MessageError, stamp_ns
from vlm_perception.messages.tables import LOCATIONS, REASONING, SCENE
from vlm_perception.perception.rendering.overlay import (
    FOLLOWED,
    GREY,
    LABEL_COLOURS,
    STATUS_COLOURS,
)
from vlm_perception.perception.rendering.shown import shown_objects, title
from vlm_perception.types import Followed, LocatedObjects, Reasoning, Scene, Status

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
RAW_IMAGE = "sensor_msgs/msg/Image"
READERS = {table.type_name: table.read for table in (SCENE, REASONING, LOCATIONS)}
SHOWN = (COMPRESSED_IMAGE, RAW_IMAGE, *READERS)
"""The types of messages that make entities."""
STAMP, ARRIVAL = "stamp", "arrival"
"""Time lines: of the camera, on which boxes are on their image, and of the recorder."""
JPEG_QUALITY = 85


class Entities:
    """Turns serialized messages into entities of one recording."""

    def __init__(self, recording: rr.RecordingStream) -> None:
        """Lay out the screen."""
        self._recording = recording
        self._tags: set[str] = set()
        self._states: dict[tuple[str, ...], str] = {}
        self._shown: tuple[str, ...] = ()
        for name in (STAMP, ARRIVAL):
            recording.set_time(name, timestamp=0.0)
        recording.reset_time()
        recording.send_blueprint(layout())
        points = rr.SeriesPoints(colors=LABEL_COLOURS[1], markers="diamond", marker_sizes=5.0)
        recording.log("keyframes", points, static=True)
        statuses = rr.StateConfiguration(
            values=[status.name for status in STATUS_COLOURS],
            colors=list(STATUS_COLOURS.values()),
        )
        recording.log("status", statuses, static=True)

    def feed(self, type_name: str, time_ns: int, data: bytes, read: Callable[[bytes], Any]) -> bool:
        """Take a message.

        Args:
            type_name: one of SHOWN.
            time_ns: when it was received, in nanoseconds.
            data: the message as CDR.
            read: makes a message of it, or raises MessageError.

        Returns:
            Whether it could be read.
        """
        try:
            message = read(data)
            said = READERS[type_name](message) if type_name in READERS else None
        except MessageError:
            return False
        self._recording.set_time(ARRIVAL, timestamp=np.datetime64(time_ns, "ns"))
        stamp = stamp_ns(message.header.stamp)
        self._recording.set_time(STAMP, timestamp=np.datetime64(stamp or time_ns, "ns"))
        if isinstance(said, Scene):
            self._scene(said)
        elif isinstance(said, Reasoning):
            self._reasoning(said)
        elif isinstance(said, LocatedObjects):
            self._followed(said)
        else:
            self._image(message, type_name)
        return True

    def _image(self, message: Any, type_name: str) -> None:
        if type_name == COMPRESSED_IMAGE:
            file = bytes(message.data)
            media_type = "image/png" if file.startswith(b"\x89PNG") else "image/jpeg"
        else:
            try:
                picture = cv2.cvtColor(to_rgb(message), cv2.COLOR_RGB2BGR)
            except ImageError:
                return
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            file, media_type = cv2.imencode(".jpg", picture, quality)[1].tobytes(), "image/jpeg"
        image = rr.EncodedImage(contents=file, media_type=media_type)
        self._recording.log("camera/image", image)

    def _scene(self, scene: Scene) -> None:
        log = self._recording.log
        boxes = rr.Boxes2D(
            array=np.array([(r.x, r.y, r.width, r.height) for r in scene.regions]).reshape(-1, 4),
            array_format=rr.Box2DFormat.XYWH,
            labels=[f"{region.label} {region.score:.2f}" for region in scene.regions],
            colors=[_colour(region.label_index) for region in scene.regions],
        )
        log("camera/regions", boxes)
        scores = {tag.label: tag.score for tag in scene.tags}
        for tag in scene.tags:
            if tag.label not in self._tags:
                line = rr.SeriesLines(names=tag.label, colors=_colour(tag.label_index))
                log(["tags", tag.label], line, static=True)
                self._tags.add(tag.label)
        for label in self._tags:
            log(["tags", label], rr.Scalars(scores.get(label, math.nan)))
        self._state(("status",), scene.status.name)
        self._say(scene)

    def _followed(self, located: LocatedObjects) -> None:
        shown = shown_objects(located)
        places = [(each.box.x, each.box.y, each.box.width, each.box.height) for each in shown]
        boxes = rr.Boxes2D(
            array=np.array(places).reshape(-1, 4),
            array_format=rr.Box2DFormat.XYWH,
            labels=[title(each) for each in shown],
            colors=[FOLLOWED if each.state is Followed.FOUND else GREY for each in shown],
        )
        self._recording.log("camera/followed", boxes)
        for each in located.objects:
            if each.state is Followed.LOST:
                text = f"lost: {title(each)}"
                self._recording.log("events", rr.TextLog(text, level=rr.TextLogLevel.INFO))

    def _reasoning(self, reasoning: Reasoning) -> None:
        log = self._recording.log
        log("drift", rr.Scalars(reasoning.drift))
        for attribute in reasoning.attributes:
            self._state(("answers", attribute.name), attribute.value)
            if attribute.probability is not None:
                log(["probability", attribute.name], rr.Scalars(attribute.probability))
        if reasoning.is_keyframe:
            log("keyframes", rr.Scalars(reasoning.drift))
            text = f"{reasoning.caption}  ({reasoning.trigger})"
            log("events", rr.TextLog(text, level=rr.TextLogLevel.INFO))

    def _state(self, entity: tuple[str, ...], value: str) -> None:
        if self._states.get(entity) != value:
            self._states[entity] = value
            self._recording.log(list(entity), rr.StateChange(state=value))

    def _say(self, scene: Scene) -> None:
        """Hazards, conflicts and the status, when they change."""
        status = "" if scene.status is Status.OK else f"{scene.status.name}: {scene.reason}"
        hazards = (f"hazard: {hazard}" for hazard in scene.hazards)
        conflicts = (f"conflict: {conflict}" for conflict in scene.conflicts)
        events = (scene.status.name, *hazards, *conflicts)
        for text in events:
            if text not in self._shown:
                shown = (status or text) if text == events[0] else text
                level = rr.TextLogLevel.WARN if shown != Status.OK.name else rr.TextLogLevel.INFO
                self._recording.log("events", rr.TextLog(shown, level=level))
        self._shown = events


def layout() -> rrb.Blueprint:
    """The image and its texts on the left, time lines on the right."""
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                rrb.Spatial2DView(origin="camera", name="camera"),
                rrb.TextLogView(origin="events", name="events"),
                row_shares=[2, 1],
            ),
            rrb.Vertical(
                rrb.TimeSeriesView(origin="tags", name="tags"),
                rrb.StateTimelineView(
                    origin="/", contents=["answers/**", "status"], name="answers and status"
                ),
                rrb.TimeSeriesView(
                    origin="/", contents=["drift", "keyframes"], name="drift and key frames"
                ),
                row_shares=[2, 3, 1],
            ),
        ),
        rrb.TimePanel(timeline=STAMP, state="collapsed"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
    )


def _colour(label_index: int) -> tuple[int, int, int]:
    return LABEL_COLOURS[label_index % len(LABEL_COLOURS)]
