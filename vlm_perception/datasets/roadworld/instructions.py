# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Instructions such as a navigation system gives, and the expected answers for a scene.

Each kind has wordings that the language model is trained on and others, in `held_out`, that it
never sees: they show whether it follows the meaning or only knows the sentence by heart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.wordings import WORDINGS
from vlm_perception.datasets.roadworld.world import VEHICLES

DISTANCES = (5, 10, 20, 30, 50)
"""Distances in metres that an answer may name; an object gets the nearest by ratio."""
IN_PATH, IN_LANE, LANE_EDGE, LEFT_LANE_END = 1.7, 1.3, 1.7, 5.2
"""Metres beside the ego lane's middle: a pedestrian in the path, another obstacle in the lane (both
as the typed questions have them), the lane's edge, and the far edge of the lane to the left."""
OBSTACLES = (*VEHICLES, "bicycle", "pedestrian", "cone", "barrier")
NEAR_METRES = 17.0
"""As the typed question `lead_vehicle` has it."""

_EDGES = tuple((a * b) ** 0.5 for a, b in pairwise(DISTANCES))
_DISTANCE = re.compile(r"about (\d+) metres")


@dataclass(frozen=True)
class Instruction:
    """One kind of instruction."""

    name: str
    answer: Callable[[SceneTruth], str]
    """The expected answer for a scene."""
    wordings: tuple[str, ...]
    """Wordings to train on."""
    held_out: tuple[str, ...]
    """Wordings for evaluation."""
    caption_words: tuple[str, ...]
    """Words of a caption that bear on the answer."""


def agrees(said: str, true: str) -> bool:
    """Whether an answer is right, where a distance may be one step of DISTANCES off."""
    if _DISTANCE.sub("", said) != _DISTANCE.sub("", true):
        return False
    numbers = [[int(n) for n in _DISTANCE.findall(text)] for text in (said, true)]
    return all(
        a in DISTANCES and abs(DISTANCES.index(a) - DISTANCES.index(b)) <= 1
        for a, b in zip(*numbers, strict=True)
    )


def _near(thing: ObjectTruth) -> str:
    step = sum(thing.distance > edge for edge in _EDGES)
    return f"about {DISTANCES[step]} metres"


def _side(thing: ObjectTruth) -> str:
    if abs(thing.offset) <= LANE_EDGE:
        return "ahead"
    return "on the left" if thing.offset > 0 else "on the right"


def _things(truth: SceneTruth, labels: Sequence[str]) -> list[ObjectTruth]:
    """The present objects with these labels, the nearest first."""
    found = [o for o in truth.objects if o.label in labels and o.share >= PRESENT_SHARE]
    return sorted(found, key=lambda o: o.distance)


def _blocking(truth: SceneTruth, labels: Sequence[str] = OBSTACLES) -> list[ObjectTruth]:
    """Objects in the ego lane, the nearest first."""
    return [
        o
        for o in _things(truth, labels)
        if abs(o.offset) < (IN_PATH if o.label == "pedestrian" else IN_LANE)
    ]


def _light(truth: SceneTruth) -> str:
    return {
        "none": "there is no traffic light.",
        "red": "the light is still red.",
        "yellow": "the light is yellow, stop.",
        "green": "the light is green, go.",
    }[truth.attributes["traffic_light"]]


def _reason_to_stop(truth: SceneTruth) -> str:
    """What keeps the car from driving on; empty when nothing does."""
    if truth.attributes["pedestrian_in_path"] == "yes":
        return "a pedestrian in the path"
    if truth.attributes["traffic_light"] in ("red", "yellow"):
        return f"the {truth.attributes['traffic_light']} light"
    near = [o for o in _blocking(truth) if o.distance < NEAR_METRES]
    return f"a {near[0].label} near ahead" if near else ""


def _go(truth: SceneTruth) -> str:
    return "no." if _reason_to_stop(truth) else "yes."


def _stopper(truth: SceneTruth) -> str:
    return f"{_reason_to_stop(truth) or 'nothing, drive on'}."


def _gap(truth: SceneTruth) -> str:
    beside = [o for o in _things(truth, OBSTACLES) if LANE_EDGE < o.offset < LEFT_LANE_END]
    if not beside:
        return "the left lane is free."
    return f"no gap, a {beside[0].label} on the left, {_near(beside[0])}."


def _lane(truth: SceneTruth) -> str:
    ahead = _blocking(truth)
    if not ahead:
        return "yes, the lane is free."
    return f"no, a {ahead[0].label} in the lane, {_near(ahead[0])}."


def _lead(truth: SceneTruth) -> str:
    ahead = _blocking(truth, VEHICLES)
    if not ahead:
        return "no vehicle ahead."
    how = "near" if ahead[0].distance < NEAR_METRES else "far"
    return f"{how}, {_near(ahead[0])}."


def _finder(labels: tuple[str, ...], none: str, name: str = "") -> Callable[[SceneTruth], str]:
    def answer(truth: SceneTruth) -> str:
        found = _things(truth, labels)
        if not found:
            return f"{none}."
        return f"{name or 'a ' + found[0].label} {_side(found[0])}, {_near(found[0])}."

    return answer


def _pedestrians_on(side: str) -> Callable[[SceneTruth], str]:
    def answer(truth: SceneTruth) -> str:
        found = [o for o in _things(truth, ("pedestrian",)) if _side(o) == f"on the {side}"]
        if not found:
            return f"no pedestrian on the {side}."
        return f"a pedestrian on the {side}, {_near(found[0])}."

    return answer


def _crosswalk(truth: SceneTruth) -> str:
    found = _things(truth, ("crosswalk",))
    return f"a crosswalk, {_near(found[0])}." if found else "no crosswalk."


def _signs(truth: SceneTruth) -> str:
    found = [label for label in ("stop sign", "speed-limit sign") if _things(truth, (label,))]
    return " and ".join(f"a {label}" for label in found) + "." if found else "no signs."


def _weather(truth: SceneTruth) -> str:
    return {"clear": "it is clear.", "rain": "it is raining.", "fog": "it is foggy."}[
        truth.attributes["weather"]
    ]


def _headlights(truth: SceneTruth) -> str:
    when, weather = truth.attributes["time_of_day"], truth.attributes["weather"]
    if when != "day":
        return f"yes, it is {when}."
    return "no, it is a clear day." if weather == "clear" else f"yes, there is {weather}."


def _road(truth: SceneTruth) -> str:
    road = truth.attributes["road"]
    return {"straight": "straight on.", "curve": "a curve."}.get(road, "an intersection.")


def _traffic(truth: SceneTruth) -> str:
    return f"{truth.attributes['traffic'].replace('none', 'no')} traffic."


_LIGHTS = tuple(f"{state} traffic light" for state in ("red", "yellow", "green"))
_REASONS = ("pedestrian", *_LIGHTS[:2], "car", "truck", "bus", "motorcycle", "cone", "barrier")
_SKY = ("clear", "rainy", "foggy")
_KINDS: tuple[tuple[str, Callable[[SceneTruth], str], tuple[str, ...]], ...] = (
    ("light", _light, _LIGHTS),
    ("go", _go, _REASONS),
    ("stopper", _stopper, _REASONS),
    ("gap", _gap, OBSTACLES),
    ("lane", _lane, OBSTACLES),
    ("lead", _lead, VEHICLES),
    ("cones", _finder(("cone",), "no cones", "cones"), ("cone",)),
    ("pedestrians_left", _pedestrians_on("left"), ("pedestrian",)),
    ("pedestrians_right", _pedestrians_on("right"), ("pedestrian",)),
    ("cyclists", _finder(("bicycle",), "no bicycle"), ("bicycle",)),
    ("heavy", _finder(("truck", "bus"), "no truck or bus"), ("truck", "bus")),
    ("works", _finder(("cone", "barrier"), "no road works", "road works"), ("cone", "barrier")),
    ("crosswalk", _crosswalk, ("crosswalk",)),
    ("signs", _signs, ("stop sign", "speed-limit sign")),
    ("weather", _weather, _SKY),
    ("headlights", _headlights, ("day", "dusk", "night", *_SKY)),
    ("road", _road, ("straight", "curved", "intersection")),
    ("traffic", _traffic, ("several cars", "several", *VEHICLES)),
)

INSTRUCTIONS: tuple[Instruction, ...] = tuple(
    Instruction(name, answer, WORDINGS[name].trained, WORDINGS[name].held_out, words)
    for name, answer, words in _KINDS
)


BEFORE = ("", "", "", "please ", "now ", "next, ")
AFTER = ("", "", ".", "?", "!", " please", " now")
"""What people put around an instruction."""


def worded(instruction: Instruction, rng: np.random.Generator) -> str:
    """One of an instruction's trained wordings, as a user may type it."""
    text = instruction.wordings[int(rng.integers(len(instruction.wordings)))]
    return BEFORE[int(rng.integers(len(BEFORE)))] + text + AFTER[int(rng.integers(len(AFTER)))]
