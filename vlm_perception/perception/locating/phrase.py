# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a phrase asks for: a thing, and where it is among things of its kind.

Dual encoders match the words of things with patches but hardly know words of place: these are taken
out by rules and applied to the boxes, as in ReCLIP (Subramanian et al., ReCLIP: A Strong Zero-Shot
Baseline for Referring Expression Comprehension, ACL 2022, section 3.2). The rules are English.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

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
    """The same without article and words of place."""
    place: Place | None = None


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
    r"[, ]+(?:(?:that|which|who) (?:is|are) )?(?:on|to|at|in) (?:the |our |my )?{}"
    r"(?:[ -]hand)?(?: side)?(?: of the (?:image|picture|frame|road|street))?$"
)
_PATTERNS: tuple[tuple[Place, re.Pattern[str]], ...] = tuple(
    (place, re.compile(pattern.format(word), re.IGNORECASE))
    for words, patterns in ((_FIRST_OF, (r"^{}[ -]",)), (_SIDES, (_AFTER, r"^{}(?:[ -]hand)? ")))
    for place, word in words.items()
    for pattern in patterns
)
_ARTICLE = re.compile(r"^(?:the|a|an) ", re.IGNORECASE)


def parse_phrase(text: str) -> Phrase:
    """Check a phrase and take it apart.

    Raises:
        LocateError: it is empty, too long or no text, or names a place and no thing.
    """
    words = " ".join(_checked(text).split())
    thing = _ARTICLE.sub("", words.rstrip(" .?!"))
    for place, pattern in _PATTERNS:
        rest, count = pattern.subn("", thing)
        if count:
            rest = _ARTICLE.sub("", rest.strip())
            if not rest or rest.lower() in ("one", "thing", "object"):
                raise LocateError(
                    f"the phrase {words!r} says where but not what; name the thing, as in "
                    "'the car on the left'"
                )
            return Phrase(words, rest, place)
    if not thing:
        raise LocateError(f"the phrase {words!r} names nothing; say what to look for, as 'a car'")
    return Phrase(words, thing)


def _checked(text: str) -> str:
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
    return text
