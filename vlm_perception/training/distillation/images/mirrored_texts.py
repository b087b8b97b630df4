# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""English sentences about an image, made true of its mirror image.

Each `left` and `right` is a direction, and is swapped, or something else, and stays: "right now",
"left behind". Where the words around it do not tell, the sentence is not understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LANGUAGE = "en"
"""The language that is understood."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019\u2010-][^\W_]+)*")
_SIDE = re.compile(r"left|right", re.IGNORECASE)


def _words_of(line: str) -> frozenset[str]:
    return frozenset(line.split())


_SWAPPED = {"left": "right", "right": "left"}
_ONE_WORD = re.compile(r"(left|right)(most|hand|handed|ward|wards|side)?")
_STAY = _words_of(
    "leftover leftovers left-over left-overs left-behind rightful rightfully rightly righteous "
    "right-of-way right-angle right-angles right-angled rights"
)
"""Words that begin as the sides do, and are none."""
_PARTS = _words_of(
    "top bottom upper lower far near mid middle center centre front rear back hand handed hander "
    "handers most side sided lane turn turns turning facing pointing leaning curving bound to of "
    "ward wards the and or from hard slight sharp"
)
"""Words that are tied to a side by hyphens."""
_TURNING = _words_of("clockwise anticlockwise counterclockwise counter-clockwise")
"""Directions that are not swapped; a sentence with one of them is left alone."""
_ARTICLES = _words_of("the a an his her its their your my our this that each either")
_CONTRACTIONS = _words_of("it's that's he's she's what's there's who's here's where's")
_PLACES = _words_of(
    "top bottom upper lower far near middle mid center centre front rear back extreme immediate "
    "hard slight slightly sharp sharply next first second third"
)
"""Words between an article and a side."""
_BEFORE = _words_of("on at to from toward towards")
_TURNS = frozenset(
    f"{verb}{end}"
    for verb in ("turn", "veer", "bend", "steer", "swerve", "bear", "face", "fac", "point", "curve")
    for end in ("", "s", "ing", "ed")
) | frozenset(("curving", "facing", "faces", "bending", "keep", "keeps", "keeping"))
_THINGS = _words_of(
    "side sides lane lanes hand turn turns turning arrow arrows edge edges corner corners wheel "
    "wheels headlight headlights taillight taillights foot leg arm eye half part third quarter "
    "kerb curb sidewalk pavement shoulder window windows door doors mirror indicator blinker wall "
    "building buildings car cars truck trucks bus buses van vehicle vehicles motorcycle bicycle "
    "cyclist pedestrian pedestrians person people man woman sign signs light traffic barrier "
    "barriers cone cones crosswalk tree trees pole house houses fence median border bank"
)
"""What has or is on a side, and is seldom called right for being the right one."""
_AFTER = _words_of(
    "of is are was were has have and or with there stands sits in near at onto into a an the "
    "while as but where which that from to side"
)
"""Words that may follow `on the left`."""
_JUST = _words_of(
    "now away behind beside next before after above below under underneath up through along "
    "against across"
)
"""After `right`, which then means directly."""
_CORRECT = _words_of("time moment place track size answer choice amount angle angles")
_BE = _words_of("is are was were been be being")
_HAVE = _words_of("has have had having")
_REMAIN = _words_of("behind over open alone unattended")
_RATHER = _words_of("what nothing anything something everything little much all few")


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    low: str
    """In small letters."""
    before: bool
    """Whether nothing but space is between it and the word before."""


def is_understood(tag: str) -> bool:
    """Whether the sides are known in a language, by its BCP 47 tag."""
    return tag.lower().split("-")[0] == LANGUAGE


def mirrored(text: str) -> str | None:
    """The sentence about the mirror image; twice mirrored it is as it was.

    Returns:
        None where a `left` or `right` may be a direction or not.
    """
    if not _SIDE.search(text):
        return None if _TURNING & {word.low for word in _words(text)} else text
    swapped, sides = _swap(text)
    if swapped is None or _swap(swapped) != (text, sides):
        return None
    return swapped


def _swap(text: str) -> tuple[str | None, list[int]]:
    """The sentence with its directions swapped, and which of its words have them."""
    words = _words(text)
    if any(word.low in _TURNING for word in words):
        return None, []
    parts, sides, done = [], [], 0
    for index, word in enumerate(words):
        is_side = _is_side(words, index, text)
        if is_side is None:
            return None, []
        if is_side:
            swapped = _SIDE.sub(lambda found: _in_case(found[0]), word.text)
            parts += [text[done : word.start], swapped]
            done = word.start + len(word.text)
            sides.append(index)
    return "".join([*parts, text[done:]]), sides


def _words(text: str) -> list[_Word]:
    words: list[_Word] = []
    end = 0
    for found in _WORD.finditer(text):
        gap = text[end : found.start()]
        low = found[0].lower().replace("\u2019", "'").replace("\u2010", "-")
        tied = bool(words) and not gap.replace("_", " ").strip()
        words.append(_Word(found[0], found.start(), low, tied))
        end = found.end()
    return words


def _in_case(word: str) -> str:
    other = _SWAPPED[word.lower()]
    return other.upper() if word.isupper() else other.title() if word[0].isupper() else other


def _is_side(words: list[_Word], index: int, text: str) -> bool | None:
    """Whether a word is a direction; None where that cannot be told."""
    word = words[index].low
    if word in _SWAPPED:
        return _plain(words, index, text)
    if word in _STAY or ("-" not in word and not word.startswith(("left", "right"))):
        return False
    parts = word.split("-")
    if not any(part.startswith(("left", "right")) for part in parts):
        return False
    if all(_ONE_WORD.fullmatch(part) or part in _PARTS for part in parts):
        return True
    return None


def _plain(words: list[_Word], index: int, text: str) -> bool | None:
    """Whether `left` or `right` alone is a direction."""
    before, after = _neighbour(words, index, -1), _neighbour(words, index, 1)
    if _paired(words, index, text):
        return True
    if _stays(words, index, before, after):
        return False
    if _after_article(words, index):
        clear = after in _AFTER | _THINGS | {""}
    elif after in _JUST | _CORRECT | _REMAIN:
        clear = False
    elif after in _THINGS and before not in _HAVE:
        clear = True
    elif before in _BEFORE:
        clear = after not in ("the", "a", "luggage")
    elif before in _TURNS | _PLACES:
        clear = after in _AFTER | {""}
    elif after == "of":
        clear = not {before, _neighbour(words, index - 1, -1)} & _RATHER
    else:
        clear = not before and not after and _set_apart(words, index, text)
    return True if clear else None


def _neighbour(words: list[_Word], index: int, step: int) -> str:
    """The word beside; empty where a mark or nothing is."""
    at = index + step
    if not 0 <= at < len(words) or not words[max(index, at)].before:
        return ""
    return words[at].low


def _stays(words: list[_Word], index: int, before: str, after: str) -> bool:
    """Whether the words around it make it another word: all right, right now, has left."""
    then = _neighbour(words, index + 1, 1) if after else ""
    free = before not in _BEFORE | _TURNS | _PLACES | _ARTICLES
    if words[index].low == "right":
        return (
            (after, then) == ("of", "way")
            or after in ("angle", "angles")
            or (before == "all" and after not in _THINGS)
            or (before in _ARTICLES and after in _CORRECT)
            or (free and (after in _JUST or (after, then) == ("in", "front")))
        )
    return (
        (before in _HAVE and after not in _THINGS)
        or (before in _BE and after in _REMAIN)
        or (free and bool(before) and after in _ARTICLES)
    )


def _after_article(words: list[_Word], index: int) -> bool:
    """Whether an article or an owner is before it, with or without a place between."""
    at = index
    while (low := _neighbour(words, at, -1)) in _PLACES:
        at -= 1
    owner = low.endswith(("'s", "s'")) and low not in _CONTRACTIONS
    return low in _ARTICLES or owner


def _paired(words: list[_Word], index: int, text: str) -> bool:
    """Whether the other side is named beside it: left and right, right/left."""
    other = _SWAPPED[words[index].low]
    for step in (-1, 1):
        joined = _neighbour(words, index, step) in ("and", "or", "to", "then", "nor")
        if joined and _neighbour(words, index + step, step) == other:
            return True
        at = index + step
        if 0 <= at < len(words) and words[at].low == other:
            first, second = words[min(index, at)], words[max(index, at)]
            if text[first.start + len(first.text) : second.start].strip() in ("/", "&", "|"):
                return True
    return False


def _set_apart(words: list[_Word], index: int, text: str) -> bool:
    """Whether marks say that it is a heading or a remark: `Left: a car`, `a car (right)`."""
    word = words[index]
    end = word.start + len(word.text)
    before, after = text[: word.start].rstrip()[-1:], text[end:].lstrip()[:1]
    return after == ":" or (before == "(" and after == ")")
