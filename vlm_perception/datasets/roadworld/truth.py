# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is true of a rendered scene: objects, tags, attributes, captions and questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.object_mentions import ObjectNames
from vlm_perception.datasets.roadworld.renderer import Rendered
from vlm_perception.datasets.roadworld.world import (
    LABELS,
    OBJECT_LABELS,
    SCENE_LABELS,
    VEHICLES,
    World,
)

PRESENT_SHARE = 0.001
"""An object is present when it visibly covers at least this share of the image."""
SMALL_SHARE = 0.005
"""Up to this share of the image a present object counts as small."""

QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "time_of_day": ("what time of day is it", ("day", "dusk", "night")),
    "weather": ("what is the weather", ("clear", "rain", "fog")),
    "road": ("what kind of road is this", ("straight", "curve", "intersection")),
    "traffic_light": ("what does the traffic light show", ("none", "red", "yellow", "green")),
    "pedestrian_in_path": ("is a pedestrian in the path", ("no", "yes")),
    "lead_vehicle": ("is there a vehicle ahead in the lane", ("none", "near", "far")),
    "construction": ("is there a construction zone", ("no", "yes")),
    "traffic": ("how dense is the traffic", ("none", "light", "heavy")),
}
"""Attribute name -> wording and choices."""

CAPTION_PROMPT = "describe the scene"


@dataclass(frozen=True)
class ObjectTruth:
    """One labelled object as it appears in the image."""

    label: str
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels."""
    share: float
    """Visible pixels over the image's pixels."""
    visible_share: float
    """Visible pixels over the pixels of its silhouette within the image."""
    distance: float
    """Metres along the road from the camera."""
    offset: float
    """Metres to the left of the ego lane's middle."""
    colour: str = ""
    """Name of the colour that it is known by; empty where it has none."""
    identity: int = 0
    """Value of its pixels in `Rendered.ids`; 0 where these are not at hand."""


@dataclass(frozen=True)
class SceneTruth:
    """Everything that is asked about one scene."""

    objects: tuple[ObjectTruth, ...]
    shares: dict[str, float]
    """Share of the image that the largest object of each present label covers; 1 for weather."""
    attributes: dict[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are present, in the order of LABELS."""
        return tuple(label for label in LABELS if label in self.shares)


def describe(world: World, rendered: Rendered, time: float = 0.0) -> SceneTruth:
    """Measure the truth from the identity of each pixel."""
    height, width = rendered.ids.shape
    counts = np.bincount(rendered.ids.ravel(), minlength=len(rendered.objects) + 1)
    objects = []
    for index, actor in enumerate(rendered.objects):
        pixels = int(counts[index + 1])
        if not pixels:
            continue
        box = cv2.boundingRect((rendered.ids == index + 1).view(np.uint8))
        x, y, w, h = (int(value) for value in box)
        objects.append(
            ObjectTruth(
                actor.label,
                (x, y, w, h),
                pixels / (width * height),
                pixels / max(rendered.silhouettes[index], 1),
                actor.s - world.ego_s(time),
                actor.d - world.road.ego_offset,
                actor.mesh.colour,
                index + 1,
            )
        )
    weather = (world.weather == "rain", world.weather == "fog", world.time_of_day == "night")
    holds = [label for label, true in zip(SCENE_LABELS, weather, strict=True) if true]
    given = {
        "time_of_day": world.time_of_day,
        "weather": world.weather,
        "road": road_kind(world, time),
    }
    return _scene(objects, holds, given)


def seen_in(truth: SceneTruth, ids: NDArray[np.uint8]) -> SceneTruth:
    """The truth of a part of an image; `visible_share` of its objects stays that in the image.

    Args:
        truth: of the whole image, with the identity of each object.
        ids: [H, W] of the part's pixels, as `Rendered` has them.
    """
    counts = np.bincount(ids.ravel(), minlength=256)
    objects = []
    for thing in truth.objects:
        if pixels := int(counts[thing.identity]):
            x, y, w, h = cv2.boundingRect((ids == thing.identity).view(np.uint8))
            share = pixels / ids.size
            objects.append(replace(thing, box=(int(x), int(y), int(w), int(h)), share=share))
    holds = [label for label in SCENE_LABELS if label in truth.shares]
    given = {name: truth.attributes[name] for name in ("time_of_day", "weather", "road")}
    return _scene(objects, holds, given)


def _scene(
    objects: Sequence[ObjectTruth], holds: Sequence[str], given: dict[str, str]
) -> SceneTruth:
    """All that follows from the objects, from what labels of the scene hold, and what is given."""
    shares: dict[str, float] = {}
    for thing in objects:
        if thing.share >= PRESENT_SHARE:
            shares[thing.label] = max(thing.share, shares.get(thing.label, 0.0))
    shares |= dict.fromkeys(holds, 1.0)
    return SceneTruth(tuple(objects), shares, given | _attributes(objects))


def _attributes(objects: Sequence[ObjectTruth]) -> dict[str, str]:
    present = [thing for thing in objects if thing.share >= PRESENT_SHARE]
    lights = sorted(
        (o for o in present if o.label.endswith("traffic light")), key=lambda o: o.distance
    )
    walkers = [o for o in present if o.label == "pedestrian" and abs(o.offset) < 1.7]
    ahead = [o.distance for o in present if o.label in VEHICLES and abs(o.offset) < 1.3]
    vehicles = sum(o.label in VEHICLES for o in present)
    works = any(o.label in ("cone", "barrier") for o in present)
    return {
        "traffic_light": lights[0].label.split()[0] if lights else "none",
        "pedestrian_in_path": "yes" if walkers else "no",
        "lead_vehicle": "none" if not ahead else "near" if min(ahead) < 17.0 else "far",
        "construction": "yes" if works else "no",
        "traffic": "none" if not vehicles else "light" if vehicles < 4 else "heavy",
    }


def road_kind(world: World, time: float) -> str:
    """What the road does within the next 35 m."""
    road, start = world.road, world.ego_s(time)
    if any(4.0 < crossing - start < 35.0 for crossing in road.crossings):
        return "intersection"
    turn = abs(road.route.heading(start + 35.0) - road.route.heading(start))
    return "curve" if turn > 0.2 else "straight"


_SEVERAL = {"bus": "buses", "speed-limit sign": "speed-limit signs"}


def _article(label: str) -> str:
    return f"an {label}" if label[0] in "aeiou" else f"a {label}"


def _things(truth: SceneTruth, labels: Sequence[str]) -> str:
    counts = dict.fromkeys(labels, 0)
    for thing in truth.objects:
        if thing.share >= PRESENT_SHARE and thing.label in counts:
            counts[thing.label] += 1
    words = [
        _article(label) if count == 1 else f"several {_SEVERAL.get(label, label + 's')}"
        for label, count in counts.items()
    ]
    if not words:
        return "nothing of note"
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def captions(truth: SceneTruth, rng: np.random.Generator) -> tuple[str, ...]:
    """Several wordings; the first is the one that the language model is taught to write."""
    named = [label for label in truth.labels if label not in SCENE_LABELS]
    weather, when, road = (truth.attributes[k] for k in ("weather", "time_of_day", "road"))
    sky = {"clear": "clear", "rain": "rainy", "fog": "foggy"}[weather]
    way = {
        "straight": "on a straight road",
        "curve": "on a curved road",
        "intersection": "at an intersection",
    }[road]
    shuffled = [named[i] for i in rng.permutation(len(named))]
    wet = {"clear": "", "rain": " in the rain", "fog": " in fog"}[weather]
    moment = {"day": "by day", "dusk": "at dusk", "night": "at night"}[when]
    return (
        f"a {sky} {when} {way} with {_things(truth, named)}",
        f"{_things(truth, shuffled)} {way} {moment}{wet}",
        f"{way} {moment}{wet}: {_things(truth, shuffled)}",
        f"a camera on a car sees {_things(truth, shuffled)}; it is {when} and {sky}",
    )


def presence_question(label: str) -> str:
    """A yes/no question about one label."""
    if label in SCENE_LABELS:
        return {"rain": "is it raining", "fog": "is it foggy", "night": "is it night"}[label]
    return f"is there {_article(label)}"


_NAMES = ObjectNames(OBJECT_LABELS)


def object_labels_in(text: str) -> frozenset[str]:
    """The object labels that a caption names; a state of a light counts as its own label."""
    return _NAMES.named(text)
