# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How people word the instructions of a navigation system: to train with, and to examine with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Wordings:
    """Wordings of one kind of instruction."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    """Never trained on."""


def _each(pattern: str, *choices: Iterable[str]) -> tuple[str, ...]:
    """The pattern with every combination of the choices in its places."""
    return tuple(pattern.format(*chosen) for chosen in product(*choices))


_FOR = ("look for", "watch for", "watch out for", "search for", "check for", "look out for")
_WARN = ("warn me of", "warn me about", "tell me about", "tell me if you see", "say if there are")
_SEE = ("do you see", "can you see", "are there")


def _search(names: Sequence[str], tail: str = "") -> tuple[str, ...]:
    """Ways to ask for things of some names."""
    return _each("{} {}" + tail, (*_FOR, *_WARN, *_SEE), names)


WORDINGS: dict[str, Wordings] = {
    "light": Wordings(
        (
            *_each("tell me when the {}light {}", ("", "traffic "), ("turns green", "is green")),
            *_each(
                "say when the {}light {}", ("", "traffic "), ("turns green", "changes to green")
            ),
            *_each("{} the traffic light", ("watch", "check", "keep an eye on", "look at")),
            *_each("{} for the green light", ("wait", "watch", "look")),
            "watch the light and tell me when to go",
            "is the light green yet",
            "has the light turned green",
            "warn me of a red light",
            "is the light red",
        ),
        (
            "let me know when the light turns green",
            "tell me as soon as the traffic light shows green",
            "is the traffic light green now",
            "wait until the light is green",
        ),
    ),
    "go": Wordings(
        (
            *_each("say only whether i {} {}", ("can", "may"), ("drive on", "go on", "go")),
            *_each("{} i drive on", ("can", "may", "should")),
            *_each("is it {} to {}", ("clear", "free"), ("go", "drive on")),
            "say yes or no, can i go on",
            "tell me only if i can drive on",
            "yes or no, may i drive",
            "am i free to go",
        ),
        (
            "just say if i can drive on",
            "can i go now",
            "say yes or no, may i drive on",
            "tell me whether it is free to drive on",
        ),
    ),
    "stopper": Wordings(
        (
            *_each("what {} me from {}", ("keeps", "stops", "holds"), ("driving on", "going on")),
            *_each("why {} i {}", ("must", "should", "do"), ("stop", "wait", "not drive on")),
            *_each("tell me what {}", ("stops me", "i wait for", "i must stop for")),
            "what must i stop for",
            "what do we wait for",
            "is there something to stop for",
        ),
        (
            "what am i waiting for",
            "tell me why i must wait",
            "say what keeps me from going",
            "what is there to stop for",
        ),
    ),
    "gap": Wordings(
        (
            *_each("{} for a gap on the left", ("watch", "look", "wait", "search")),
            *_each("{} i {} to the left lane", ("can", "may", "should"), ("change", "move")),
            *_each("is {} free", ("the left lane", "the lane on the left", "the left side")),
            *_each("tell me when {} is free", ("the left lane", "the lane on the left")),
            "what is in the left lane",
            "is there a gap on the left",
            "i want to move to the left",
        ),
        (
            "find a gap to the left of me",
            "tell me if there is a gap in the left lane",
            "i want to change to the left lane",
            "say when the left lane is free",
        ),
    ),
    "lane": Wordings(
        (
            *_each("is {} free", ("the lane ahead", "my lane", "the road ahead", "our lane")),
            *_each("is there {} in {}", ("something", "a thing"), ("my lane", "the lane ahead")),
            *_each("tell me if {} is free", ("my lane", "the lane ahead", "our lane")),
            *_each("{} the lane ahead", ("check", "watch", "look at", "keep an eye on")),
            "is the way free",
            "what is in my lane",
            "what stands in the lane ahead",
        ),
        (
            "is the lane in front of me free",
            "say whether my lane is free",
            "check if the lane ahead is free",
            "what is in the lane ahead of me",
        ),
    ),
    "lead": Wordings(
        (
            *_each("how {} is the {} ahead", ("far", "near", "far away"), ("car", "vehicle")),
            *_each("tell me the distance to the {} ahead", ("car", "vehicle")),
            *_each("{} the distance to the vehicle ahead", ("watch", "check", "say", "give me")),
            "what is the distance to the next vehicle",
            "how far is it to the car ahead",
            "is the car ahead near or far",
            "how much room is there to the car ahead",
        ),
        (
            "how far ahead is the next car",
            "say how far away the vehicle ahead is",
            "is the vehicle ahead far or near",
            "what is the distance to the car ahead",
        ),
    ),
    "cones": Wordings(
        _search(("cones", "traffic cones", "a cone")),
        ("keep an eye out for cones", "any cones", "where are the cones", "is there a cone"),
    ),
    **{
        f"pedestrians_{side}": Wordings(
            (
                *_search(("pedestrians", "people", "a pedestrian"), f" on the {side}"),
                f"is there a pedestrian on the {side}",
                f"watch the {side} side for pedestrians",
            ),
            (
                f"keep an eye out for pedestrians on the {side}",
                f"any people on the {side}",
                f"is anyone walking on the {side}",
                f"check the {side} side for pedestrians",
            ),
        )
        for side in ("left", "right")
    },
    "cyclists": Wordings(
        _search(("cyclists", "bicycles", "a cyclist", "bikes")),
        ("keep an eye out for cyclists", "any bicycles", "where is the cyclist", "is there a bike"),
    ),
    "heavy": Wordings(
        _search(("trucks and buses", "trucks or buses", "heavy vehicles", "a truck or a bus")),
        (
            "keep an eye out for trucks and buses",
            "any heavy vehicles",
            "is there a heavy vehicle",
            "where are the trucks and buses",
        ),
    ),
    "works": Wordings(
        _search(("road works", "a construction zone", "road construction", "a work zone")),
        (
            "keep an eye out for road works",
            "any construction ahead",
            "where are the road works",
            "is there road construction",
        ),
    ),
    "crosswalk": Wordings(
        (
            *_search(("a crosswalk", "crosswalks")),
            *_each("tell me when {} comes", ("a crosswalk", "the next crosswalk")),
            *_each("how far is the {}crosswalk", ("", "next ")),
            "is a crosswalk ahead",
        ),
        (
            "keep an eye out for crosswalks",
            "let me know when a crosswalk comes",
            "any crosswalk ahead",
            "how far away is the crosswalk",
        ),
    ),
    "signs": Wordings(
        (
            *_each("{} the signs", ("read", "watch", "look at", "check", "tell me", "name")),
            *_each("{} signs {}", ("which", "what"), ("are there", "do you see", "stand here")),
            *_each("{} signs", ("look for", "watch for", "search for", "tell me about")),
            "what do the signs say",
            "is there a sign",
        ),
        ("which signs can you see", "any signs", "say which signs stand here", "read me the signs"),
    ),
    "weather": Wordings(
        (
            *_each("how is the weather{}", ("", " today", " now", " ahead")),
            *_each("tell me {} the weather", ("about", "how is")),
            *_each("{} the weather", ("check", "watch", "look at", "say how is")),
            *_each("is it {}", ("dry or wet", "clear or foggy", "raining or clear")),
            "may the road be wet",
            "does it rain",
        ),
        (
            "what weather is it",
            "give me the weather",
            "say how the weather is",
            "is the weather clear or foggy",
        ),
    ),
    "headlights": Wordings(
        (
            *_each("{} i need {}lights", ("do", "will"), ("head", "my ", "the ", "my head")),
            *_each("{} i {} my headlights on", ("should", "must"), ("turn", "switch")),
            *_each("tell me {} i need {}", ("if", "whether", "when"), ("my lights", "headlights")),
            "are headlights needed",
            "lights on or off",
        ),
        (
            "say whether i need headlights",
            "must i switch on the headlights",
            "do we need the headlights",
            "should my lights be on",
        ),
    ),
    "road": Wordings(
        (
            *_each("{} the road go on", ("how does", "where does")),
            *_each("what {} next on the road", ("comes", "is")),
            *_each(
                "tell me {}", ("how the road goes on", "what comes next", "where the road goes")
            ),
            *_each("is a {} ahead", ("curve", "bend", "crossing")),
            "does the road go straight on",
            "warn me of a curve",
            "tell me when an intersection comes",
            "what does the road do ahead",
        ),
        (
            "how does the road go ahead",
            "say what comes next on the road",
            "does a curve come next",
            "let me know when an intersection comes",
        ),
    ),
    "traffic": Wordings(
        (
            *_each("how {} is the {}", ("busy", "full"), ("road", "street", "traffic")),
            *_each("how {} is there", ("much traffic", "many cars")),
            *_each("{} the traffic", ("check", "tell me about", "watch", "say how is")),
            *_each("is {} busy", ("the road", "the street", "it")),
            "how is the traffic",
        ),
        (
            "how heavy is the traffic",
            "is there much traffic",
            "give me the traffic",
            "say how busy the road is",
        ),
    ),
}
"""Name of the kind -> how it is worded."""
