# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a phrase asks for: a thing, its colour, and where it is among things of its kind.

Dual encoders match the words of things with patches but hardly know words of place, and bind
colours to things badly: these are taken out by rules and applied to the boxes, as in ReCLIP
(Subramanian et al., ReCLIP: A Strong Zero-Shot Baseline for Referring Expression Comprehension, ACL
2022, section 3.2). The rules are English.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from vlm_perception.perception.locating.colours import COLOURS, SPELT
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.tokenizer import TextError, require_text

LONGEST_PHRASE = 200


class Place(Enum):
    """Where a thing is in the image, or which one of several."""

    LEFT = "left"
    MIDDLE = "middle"
    RIGHT = "right"
    LEFTMOST = "leftmost"
    RIGHTMOST = "rightmost"
    NEAREST = "nearest"
    FARTHEST = "farthest"
    LARGEST = "largest"
    SMALLEST = "smallest"


@dataclass(frozen=True)
class Phrase:
    """A phrase that can be looked for."""

    text: str
    """As it was given, with single spaces."""
    thing: str
    """The same without article, words of place and colour."""
    place: Place | None = None
    colour: str = ""
    """One of COLOURS; empty where the phrase names none."""
    coloured: str = ""
    """The thing with its colour, as the text tower may know it; empty as `colour`."""


_SIDES = {
    Place.LEFT: r"left",
    Place.RIGHT: r"right",
    Place.MIDDLE: r"(?:middle|cent(?:re|er))",
}
_FIRST_OF = {
    Place.LEFTMOST: r"left[ -]?most",
    Place.RIGHTMOST: r"right[ -]?most",
    Place.NEAREST: r"(?:nearest|closest)",
    Place.FARTHEST: r"(?:farthest|furthest|most distant)",
    Place.LARGEST: r"(?:largest|biggest)",
    Place.SMALLEST: r"(?:smallest|tiniest)",
}
_AFTER = (
    r"(?:^|[, ]+)(?:(?:that|which|who) (?:is|are) )?(?:on|to|at|in) (?:the |our |my )?{}"
    r"(?:[ -]hand)?(?: side)?(?: of the (?:image|picture|frame|road|street))?$"
)
# What points to a side need not be there.
_POINTS = r"(?:hand )?(?:turn(?:s|ing)?|arrows?|bends?|curves?|merge|only|angle|drive|of[ -]way)\b"
_BEFORE = rf"^{{}}(?:[ -]hand)? (?!{_POINTS})"
_PATTERNS: tuple[tuple[Place, re.Pattern[str]], ...] = tuple(
    (place, re.compile(pattern.format(word), re.IGNORECASE))
    for words, patterns in ((_FIRST_OF, (r"^{}[ -]",)), (_SIDES, (_AFTER, _BEFORE)))
    for place, word in words.items()
    for pattern in patterns
)
_ARTICLE = re.compile(r"^(?:the|a|an) ", re.IGNORECASE)


_NAMES = "|".join((*COLOURS, *SPELT))
_COLOURED = re.compile(
    # A red light shines red, and a red and white barrier is neither.
    rf"^(?P<before>{_NAMES})(?:[ -]colou?red)? (?!and |or |with )(?P<thing>.+)"
    r"(?<!light)(?<!lights)$"
    rf"|^(?P<wearer>.+?),? (?:(?:dressed |clad )?in|wearing)(?: a)? (?P<after>{_NAMES})"
    r"(?: (?:clothes|shirt|jacket|coat))?$",
    re.IGNORECASE,
)

# An orange may be a fruit.
_PLAIN = "|".join(name for name in (*COLOURS, *SPELT) if name != "orange")
_NO_THING = re.compile(
    rf"(?:{'|'.join((*_SIDES.values(), *_FIRST_OF.values()))})(?:-hand)?"
    rf"|(?:{_PLAIN})(?:-colou?red)?|distant|most|ones?"
    r"|(?:some|any|every)?things?|objects?|it|them|this|that",
    re.IGNORECASE,
)
_AROUND = re.compile(
    r"an?|the|my|our|o[nrf]|at|to|in|is|are|and|with|which|side|half|part|colou?red|other|big|large"
    r"|little|small",
    re.IGNORECASE,
)
_OF_THE_IMAGE = re.compile(r"\bof the (?:image|picture|frame|road|street)$", re.IGNORECASE)


def parse_phrase(text: str, labels: Collection[str] = ()) -> Phrase:
    """Check a phrase and take it apart.

    Args:
        text: the phrase.
        labels: those of the bundle, which stay whole: in "red traffic light" red is no paint. Case
            does not matter; the thing is spelt as its label is.

    Raises:
        LocateError: it is empty, too long or no text, or names a place or a colour and no thing.
    """
    words = plain_phrase(text)
    own = {label.casefold(): label for label in labels} | {label: label for label in labels}

    def label_of(part: str) -> str | None:
        return own.get(part) or own.get(part.casefold())

    rest = _ARTICLE.sub("", words.rstrip(" .?!"))
    where = None
    if label_of(rest) is None:
        for place, pattern in _PATTERNS:
            without, count = pattern.subn("", rest)
            if count:
                rest, where = _ARTICLE.sub("", without.strip()), place
                break
    label = label_of(rest)
    if label is not None:
        return Phrase(words, label, where)
    if where is None and not rest.strip(string.punctuation + " "):
        raise LocateError(f"the phrase {words!r} names nothing; say what to look for, as 'a car'")
    found = _COLOURED.match(rest)
    thing = (found["thing"] or found["wearer"]) if found else rest
    if label_of(thing) is None and _names_no_thing(thing, apart=bool(where or found)):
        fault = "says where but not what" if where else "does not say what to look for"
        raise LocateError(
            f"the phrase {words!r} {fault}; name the thing, as in 'the red car on the left'"
        )
    if found is None:
        return Phrase(words, thing, where)
    name = (found["before"] or found["after"]).lower()
    colour = SPELT.get(name, name)
    return Phrase(words, label_of(thing) or thing, where, colour, rest)


def _names_no_thing(rest: str, *, apart: bool) -> bool:
    """Whether there are only words of place and colour, and those that stand for any thing.

    Args:
        rest: of a phrase.
        apart: whether such words were taken out of it.
    """
    rest = _OF_THE_IMAGE.sub("", rest) if apart else rest
    words = re.findall(r"[^\s,;.:!?<>()]+", rest)
    bare = [_NO_THING.fullmatch(word) is not None for word in words]
    around = [_AROUND.fullmatch(word) is not None for word in words]
    return (apart or any(bare)) and all(map(any, zip(bare, around, strict=True)))


def plain_phrase(text: str) -> str:
    """A phrase as it was given, with single spaces.

    Raises:
        LocateError: it is empty, too long or no text.
    """
    if not text.strip():
        raise LocateError("the phrase is empty; say what to look for, as 'the red car'")
    if len(text) > LONGEST_PHRASE:
        raise LocateError(
            f"the phrase has {len(text)} characters; give at most {LONGEST_PHRASE}, a few words "
            "that name one thing"
        )
    try:
        require_text(text)
    except TextError as error:
        raise LocateError(f"phrase {text[:40]!r}: {error}") from error
    if any(unicodedata.category(mark) == "Cc" for mark in text):
        raise LocateError(f"the phrase {text!r} holds control characters; give one line of text")
    return " ".join(text.split())
