# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The scene as shapes in front of its camera: lines and texts, for whatever draws them in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlm_perception.perception.rendering.shown import shown, shown_objects, title
from vlm_perception.types import Followed, LocatedObjects, Scene, Status

DEPTH = 5.0
"""Default distance of the shapes in metres: an image has no depth."""
LIFETIME_S = 1
"""After that a shape is gone, should no other scene come."""
SHOWN_TAGS = 8
TEXT_HEIGHT, LINE_WIDTH = 0.03, 0.004
"""In depths, so that they look the same at any."""
Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 1."""
REGION_COLOUR, HAZARD_COLOUR = (0.33, 0.75, 1.0), (1.0, 0.3, 0.3)
FOLLOWED_COLOUR, MISSED_COLOUR = (1.0, 0.38, 1.0), (0.6, 0.6, 0.6)
STATUS_COLOURS: dict[Status, Colour] = {
    Status.OK: (1.0, 1.0, 1.0),
    Status.STALE_REASONING: (1.0, 0.7, 0.2),
    Status.NO_REASONING: (1.0, 0.7, 0.2),
    Status.NO_EMBEDDING: (1.0, 0.3, 0.3),
    Status.NO_CAMERA: (1.0, 0.3, 0.3),
    Status.DEGRADED: (1.0, 0.7, 0.2),
}

Point = tuple[float, float, float]
"""Metres in the camera's optical frame (REP 103): right, down, forwards."""


@dataclass(frozen=True)
class Shape:
    """A text at one point, or a line through several."""

    namespace: str
    index: int
    """Tells the shapes of a namespace apart."""
    points: tuple[Point, ...]
    text: str
    """Empty for a line."""
    size: float
    """Height of the text or width of the line, in metres."""
    colour: Colour


NOTHING = Shape("", 0, (), "", 0.0, (0.0, 0.0, 0.0))
"""For a message that only erases what was drawn before."""


@dataclass(frozen=True)
class Pinhole:
    """Where a pixel looks to: focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def calibrated(
        cls, matrix: Sequence[float], calibrated: tuple[int, int], size: tuple[int, int]
    ) -> Pinhole | None:
        """Read a camera matrix for images of another size; None when there is no calibration.

        Args:
            matrix: K of sensor_msgs/CameraInfo, row by row: that of the raw image, since boxes are
                pixels of the image as it came. Its distortion is left out.
            calibrated: width and height that the matrix is for, in pixels.
            size: width and height of the images.
        """
        fx, fy, cx, cy = (float(matrix[place]) for place in (0, 4, 2, 5))
        if not (fx > 0 and fy > 0 and all(calibrated)):
            return None
        across, down = size[0] / calibrated[0], size[1] / calibrated[1]
        return cls(fx * across, fy * down, cx * across, cy * down)

    @classmethod
    def of_image(cls, size: tuple[int, int]) -> Pinhole:
        """Guess a camera for an image of this size: 53 degrees wide, looking at its middle."""
        width, height = size
        return cls(width, width, width / 2, height / 2)

    def point(self, u: float, v: float, depth: float) -> Point:
        """The point of a pixel at this depth."""
        return (u - self.cx) / self.fx * depth, (v - self.cy) / self.fy * depth, depth


def scene_text(scene: Scene) -> str:
    """Write the scene in a few lines."""
    tags = "  ".join(f"{tag.label} {tag.score:.2f}" for tag in scene.tags[:SHOWN_TAGS])
    attributes = "  ".join(f"{item.name}: {item.value}" for item in scene.attributes)
    hazards = "hazards: " + ", ".join(scene.hazards) if scene.hazards else ""
    status = scene.status.name + (f": {scene.reason}" if scene.reason else "")
    return "\n".join(line for line in (status, hazards, tags, attributes, scene.caption) if line)


def scene_shapes(
    scene: Scene,
    camera: Pinhole | None,
    depth: float = DEPTH,
    located: LocatedObjects | None = None,
) -> list[Shape]:
    """The scene's text, and a box with its name for each region and each followed object.

    Args:
        scene: what is shown.
        camera: places the pixels of the scene's image; guessed where it is None.
        depth: distance in metres of the plane of all shapes.
        located: the followed objects; None: there are none.
    """
    scene = shown(scene)
    camera = camera or Pinhole.of_image(scene.image_size)
    above = (camera.point(camera.cx, 0, depth),)
    colour = STATUS_COLOURS[scene.status]
    shapes = [Shape("scene", 0, above, scene_text(scene), depth * TEXT_HEIGHT, colour)]
    for index, region in enumerate(scene.regions):
        colour = HAZARD_COLOUR if region.label in scene.hazards else REGION_COLOUR
        corner = (region.x, region.y, region.width, region.height)
        name = f"{region.label} {region.score:.2f}"
        shapes += _box(camera, corner, depth, ("regions", "labels"), index, name, colour)
    # Of an image of another size, nothing is where this camera sees it.
    same = located is not None and located.image_size == scene.image_size
    for each in shown_objects(located) if same else ():
        colour = FOLLOWED_COLOUR if each.state is Followed.FOUND else MISSED_COLOUR
        place = (each.box.x, each.box.y, each.box.width, each.box.height)
        names = ("followed", "followed labels")
        shapes += _box(camera, place, depth, names, each.id, title(each), colour)
    return shapes


def _box(
    camera: Pinhole,
    place: tuple[float, float, float, float],
    depth: float,
    namespaces: tuple[str, str],
    index: int,
    name: str,
    colour: Colour,
) -> tuple[Shape, Shape]:
    """A box (x, y, width, height) in pixels, and its name above it."""
    left, top = place[:2]
    right, bottom = left + place[2], top + place[3]
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    box = tuple(camera.point(u, v, depth) for u, v in corners)
    over = (camera.point((left + right) / 2, top, depth),)
    return (
        Shape(namespaces[0], index, box, "", depth * LINE_WIDTH, colour),
        Shape(namespaces[1], index, over, name, depth * TEXT_HEIGHT, colour),
    )
