# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How people word the instructions of a navigation system: for training and for evaluation."""

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
_SEE = ("do you see", "can you see", "are there", "are there any", "let me know if you see")
_BRIEF = ("keep an eye out for", "any", "where are", "let me know about")
_ONE = ("is there a", "where is the", "is there any")


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
            *_each("let me know when the {}light {}", ("", "traffic "), ("is green", "is red")),
            *_each("{} the light is red", ("wait while", "say if", "tell me if")),
            *_each("tell me as soon as the {} green", ("light is", "light turns", "light shows")),
            *_each("wait until the light {}", ("turns green", "shows green")),
            "is the light green now",
            "is the traffic light green",
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
            *_each("just say if i {}", ("can go", "may drive on", "may go on")),
            *_each("can i {} now", ("drive on", "drive", "go on")),
            *_each("tell me whether {}", ("i can go", "i may drive on", "it is clear to go")),
            "say yes or no, may i go",
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
            *_each("what {} waiting for", ("are we", "is it that i am")),
            *_each("tell me why i {}", ("must stop", "wait", "cannot go")),
            *_each("say what {}", ("stops me", "i wait for", "keeps me here")),
            *_each("what is there {}", ("to wait for", "that stops me")),
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
            *_each("find a gap {}", ("on the left", "in the left lane")),
            *_each("tell me if {}", ("the left lane is free", "there is a gap on the left")),
            *_each("i want to {} left", ("change to the", "go", "turn into the lane on the")),
            *_each("say {} the left lane is free", ("if", "whether")),
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
            *_each("is the {} in front free", ("lane", "road", "way")),
            *_each("say {} is free", ("if my lane", "whether the lane ahead", "if the lane ahead")),
            *_each("check if {} is free", ("my lane", "the road ahead", "our lane")),
            *_each("what is in {}", ("the lane ahead", "front of me", "our lane")),
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
            *_each("how far ahead is the {}", ("car", "vehicle", "next vehicle")),
            *_each("say how {} the car ahead is", ("far", "near", "far away")),
            *_each("is the {} near or far", ("vehicle ahead", "next car")),
            *_each("what is the distance to the {}", ("next car", "vehicle ahead")),
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
        (
            *_search(("cones", "traffic cones", "a cone")),
            *_each("{} {}", _BRIEF, ("traffic cones", "cones ahead", "cones on the road")),
            *_each("{} {}", _ONE, ("traffic cone", "cone ahead", "cone on the road")),
        ),
        ("keep an eye out for cones", "any cones", "where are the cones", "is there some cone"),
    ),
    **{
        f"pedestrians_{side}": Wordings(
            (
                *_search(("pedestrians", "people", "a pedestrian"), f" on the {side}"),
                *_each("{} {} on the " + side, _BRIEF, ("walking people", "persons", "walkers")),
                *_each("check the {} for {}", (side,), ("people", "pedestrians", "walkers")),
                *_each("is a {} on the {} side", ("pedestrian", "person"), (side,)),
                f"is anyone on the {side}",
                f"does anyone walk on the {side}",
                f"check the {side} side for people",
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
        (
            *_search(("cyclists", "bicycles", "a cyclist", "bikes")),
            *_each("{} {}", _BRIEF, ("bikes", "cyclists ahead", "bicycles ahead")),
            *_each("{} {}", _ONE, ("rider", "cyclist ahead", "bike ahead")),
        ),
        ("keep an eye out for cyclists", "any bicycles", "where is the cyclist", "is there a bike"),
    ),
    "heavy": Wordings(
        (
            *_search(("trucks and buses", "trucks or buses", "heavy vehicles", "a truck or a bus")),
            *_each("{} {}", _BRIEF, ("trucks or buses", "heavy vehicles ahead", "big vehicles")),
            *_each("{} {}", _ONE, ("truck or bus", "heavy vehicle ahead", "big vehicle")),
        ),
        (
            "keep an eye out for trucks and buses",
            "any heavy vehicles",
            "is there a heavy vehicle",
            "where are the trucks and buses",
        ),
    ),
    "works": Wordings(
        (
            *_search(("road works", "a construction zone", "road construction", "a work zone")),
            *_each("{} {}", _BRIEF, ("work zones", "road construction", "construction zones")),
            *_each("{} {}", _ONE, ("work zone", "work zone ahead", "construction zone ahead")),
            "is there construction",
            "any road works ahead",
            "is construction ahead",
        ),
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
            *_each("{} {}", _BRIEF, ("a crosswalk", "the next crosswalk", "crosswalks ahead")),
            *_each("let me know when {}", ("the next crosswalk comes", "there is a crosswalk")),
            *_each("how far {} to the crosswalk", ("is it", "is it still")),
            "how far away is the next crosswalk",
            "is there any crosswalk",
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
            *_each("any {}", ("traffic signs", "signs ahead", "road signs")),
            *_each("say which signs {}", ("there are", "you see")),
            *_each("read {}", ("me the traffic signs", "the traffic signs to me", "signs")),
            "which signs are ahead",
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
            *_each("what {} is {}", ("kind of weather", "weather"), ("there", "it now", "ahead")),
            *_each("give me the weather {}", ("now", "ahead", "please")),
            *_each("say {}", ("how the weather is now", "what the weather is like", "the weather")),
            *_each("is the weather {}", ("clear", "clear or rainy", "foggy", "foggy or clear")),
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
            *_each(
                "say {} i need {}", ("if", "when"), ("headlights", "my lights", "the headlights")
            ),
            *_each("do we need {}", ("headlights", "lights", "our lights")),
            *_each("must i {} the lights", ("switch on", "turn on")),
            *_each("should {} be on", ("the lights", "the headlights", "headlights")),
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
            *_each("does {} come next", ("a bend", "a crossing", "an intersection")),
            *_each("say {}", ("how the road goes on", "what comes next", "where the road goes")),
            *_each("let me know when {} comes", ("a curve", "a crossing", "a bend")),
            *_each("how does the road {}", ("continue", "go on ahead", "go now")),
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
            *_each("how {} is the {}", ("heavy", "dense"), ("traffic now", "traffic ahead")),
            *_each("is there {} traffic", ("heavy", "any", "dense", "a lot of")),
            *_each("give me the traffic {}", ("now", "ahead", "please")),
            *_each("say how {} is", ("busy the street", "heavy the traffic", "full the road")),
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
