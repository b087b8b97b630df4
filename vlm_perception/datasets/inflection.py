# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The singular and the plural of English names of things.

Rules alone cannot tell `horses` from `buses`, so that more forms are given than there are words; a
form that is no word is in no text.
"""

from __future__ import annotations

import re

_IRREGULAR = {
    "person": "people persons",
    "man": "men",
    "child": "children",
    "mouse": "mice mouses",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "knife": "knives",
    "wife": "wives",
    "leaf": "leaves",
    "shelf": "shelves",
    "sheaf": "sheaves",
    "loaf": "loaves",
    "wolf": "wolves",
    "calf": "calves",
    "half": "halves",
    "thief": "thieves",
    "scarf": "scarves scarfs",
    "hoof": "hooves hoofs",
    "dwarf": "dwarves dwarfs",
    "sheep": "sheep",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "swine": "swine",
    "craft": "craft",
    "fish": "fish fishes",
    "scissors": "scissors",
    "species": "species",
}
"""Plurals of words and of all that end in them, such as `policeman`."""
_IRREGULAR_ALONE = {"ox": "oxen", "die": "dice", "bus": "buses busses", "gas": "gases gasses"}
_REGULAR = re.compile(r"(?:hu|ger|ro|nor|sha|talis|otto|cai)man|mongoose|handicraft")
_RULES = (
    (re.compile(r"ch$"), 0, "es s"),
    (re.compile(r"\w{4}us$"), 2, "uses i"),
    (re.compile(r"[aeiou]z$"), 0, "es zes"),
    (re.compile(r"(s|x|z|sh)$"), 0, "es"),
    (re.compile(r"[^aeiou]o$"), 0, "s es"),
    (re.compile(r"([^aeiou]|qu)y$"), 1, "ies"),
    (re.compile(r""), 0, "s"),
)
"""The end of a word, how many letters of it go, and what comes in their place."""
_NO_PLURAL = frozenset(("lens", "news", "canvas"))
_SINGULAR = re.compile(r"(us|tennis|iris|chassis|canvas|lens)$")
"""The end of a singular that looks like a plural."""
_HEAD = re.compile(r"(\w+)((?: (?:of|on|in|with|at|for|to) .*)?)$")
"""The word that has the plural: `slice` of `slice of pizza`, `light` of `traffic light`."""
_SHORTEST = 3
"""Letters of a singular that was made of a plural: `bus` has none, nor `toes` one in `to`."""


def forms(name: str) -> frozenset[str]:
    """A name in the singular and the plural, whichever it is.

    Args:
        name: words in lower case with one blank between them.
    """
    head = _HEAD.search(name)
    if head is None:
        return frozenset((name,))
    word = head.group(1)
    found = {word} | _plurals(word)
    for singular in _singulars(word):
        found |= {singular} | _plurals(singular)
    before, after = name[: head.start(1)], name[head.end(1) :]
    return frozenset(before + each + after for each in found)


def is_plural(name: str) -> bool:
    """Whether a name is of several things: `traffic lights`, and neither `bus` nor `sheep`.

    Args:
        name: words in lower case with one blank between them.
    """
    head = _HEAD.search(name)
    word = "" if head is None else head.group(1)
    like_a_plural = _singulars(word) - {word}
    return bool(like_a_plural) and not _SINGULAR.search(word)


def _plurals(word: str) -> set[str]:
    if word in _IRREGULAR_ALONE:
        return set(_IRREGULAR_ALONE[word].split())
    if not _REGULAR.fullmatch(word):
        for singular, plurals in _IRREGULAR.items():
            if word.endswith(singular):
                start = word.removesuffix(singular)
                return {start + plural for plural in plurals.split()}
    cut, endings = next(rule[1:] for rule in _RULES if rule[0].search(word))
    return {word[: len(word) - cut] + ending for ending in endings.split()}


def _singulars(word: str) -> set[str]:
    """All of which a word may be the plural; none if it is none."""
    irregular = {
        word.removesuffix(plural) + singular
        for singular, plurals in (*_IRREGULAR.items(), *_IRREGULAR_ALONE.items())
        for plural in plurals.split()
        if word.endswith(plural)
    }
    regular: set[str] = set()
    if word.endswith("s") and not word.endswith("ss") and word not in _NO_PLURAL:
        regular = {word[:-1], word[:-2], word[:-3], word[:-3] + "y"}
    found = {each for each in irregular if word in _plurals(each)}
    return found or {each for each in regular if len(each) >= _SHORTEST and word in _plurals(each)}
