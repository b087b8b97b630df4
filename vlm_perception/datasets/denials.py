# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an English text denies: `no cars or buses`, `not a car`, `cars are not visible`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Tokens of a text, from the first to behind the last."""

    start: int
    end: int


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ARTICLES = _set(
    "a an the this that these those some several many few two three four five another "
    "my your his her its our their"
)
_NO = _set("no without zero lacks lacking lack neither nor")
"""What follows is not there, up to the end of the list."""
_NOT = _set("not never cannot hardly scarcely")
"""As these and as every word in n't, if it is said of the object and of nothing else."""
_NOT_OF = _set("free devoid empty clear absence lack instead rather")
"""As the first, with one of the next words behind them: `free of`, `rather than`."""
_OF = _set("of from than")
_NOT_DENIED = _set("only just merely fewer less more far doubt two matter wonder")
"""Behind a negation they make it none: `not only a car`, `no fewer than two cars`."""
_SIGNS = _set("sign signs trace traces evidence hint kind sort type")
"""What `of` follows: `no sign of a car`, but `no sign that the car has stopped`."""
_HAVING = _set("wearing having carrying using containing showing including seeing")
"""`without wearing a helmet`, but `without looking at a helmet`."""
_LOOKING = (
    _set(
        "any seen show shown contain have include depict feature be seem appear to visible single "
        "really actually there of other"
    )
    | _SIGNS
    | _HAVING
)
"""Words between `not` and the object that it denies."""
_PERCEIVE = _set("see find notice spot detect observe")
"""As these, if it is the speaker who does not, or if `any` follows: what a dog does not notice is
there."""
_SPEAKERS = _set("i we you one")
_JOINS = _set(", or nor and any either other")
_ENDS = _set(
    ". ; : ! ? but except however although though while whereas yet instead only just with there "
    "is are was were be has have had can could will would may do does did shows contains includes "
    "depicts features sees in on at near behind beside beneath between next by under over along to "
    "into onto up down off out inside outside against above below toward towards through past for "
    "from across around ahead during before after as because so if when where who which that it he "
    "she they i we you"
)
"""Words that end what a negation denies."""
_PLURAL = re.compile(r"(?!sports$)\w+[^siua\W]s")
"""A plural, or a verb, of which no more of the same noun follows: `no leaves cover the tree`."""
_ABSENT = re.compile(
    r"(?:is|are|was|were|can|could|do|does|did)?\s?(?:not|never|cannot|no\slonger|\w+n't)\s"
    r"(?:be\s|to\sbe\s|currently\s)?"
    r"(?:visible|present|seen|there|here|found|detected|shown|appear(?!\sto)|"
    r"in\s(?:the\s)?(?:image|picture|photo|scene|frame|view|sight))\b"
    r"|(?:is|are|was|were)\s(?:absent\b|(?:missing|nowhere)"
    r"(?=$|\s\W|\s(?:from|here|and|but|to\sbe|in)\b))"
    r"|:\s(?:no|none|absent)\b"
)
"""Behind an object: it is not there."""
_ABSENT_WORDS = 7
"""As many tokens as `_ABSENT` looks at."""


def denied(tokens: Sequence[str], mentions: Sequence[Span]) -> set[Span]:
    """Those that the text says are not there, whether it says so before or behind them."""
    starts = {mention.start: mention for mention in mentions}
    inside = {at for mention in mentions for at in range(mention.start, mention.end)}
    denied: set[Span] = set()
    scope: _Scope | None = None
    for at in range(len(tokens)):
        if at in starts:
            if scope is not None and scope.reaches(tokens[at - 1], tokens[starts[at].end :]):
                denied.add(starts[at])
                scope.close()
            else:
                scope = None
        elif at in inside:
            continue
        elif (opened := _opens(tokens, at)) is not None:
            scope = opened
        elif scope is not None and not scope.goes_on(tokens[at], tokens[at - 1]):
            scope = None
    return denied | _absent(tokens, mentions)


def _absent(tokens: Sequence[str], mentions: Sequence[Span]) -> set[Span]:
    """Those that are denied behind them: `a car and a bus are not visible`."""
    absent: set[Span] = set()
    later: Span | None = None
    listed = False
    for mention in reversed(mentions):
        between = tokens[mention.end : later.start] if later is not None else ()
        # A comma alone begins something new, unless it is in a list that has an `and`.
        joins = set(between) & ({"and", "or", ","} if listed else {"and", "or"})
        listed = bool(joins) and all(token in _JOINS | _ARTICLES for token in between)
        behind = " ".join(tokens[mention.end : mention.end + _ABSENT_WORDS])
        later = mention if listed or _ABSENT.match(behind) else None
        if later is not None:
            absent.add(later)
    return absent


class _Scope:
    """What a negation denies, while a text is gone through behind it.

    That is one noun with the words before it, and each further one that a list joins to it.
    """

    def __init__(self, narrow: bool, speaker: bool = False) -> None:
        """Begin.

        Args:
            narrow: it denies an object only if it is said of it, as `not` does.
            speaker: it is said of whoever speaks, as in `I do not see a car`.
        """
        self._narrow, self._speaker = narrow, speaker
        self._listed = self._closed = False
        """Whether an object was denied, and nothing joins another to it yet."""
        self._words = 0
        """How many words of the noun were passed, the last of which may be the noun itself."""
        self._article = self._unseen = False
        self._join = ""

    def close(self) -> None:
        """Take note that the object was denied which comes next."""
        self._listed = self._closed = True

    def goes_on(self, token: str, before: str) -> bool:
        """Whether it still holds behind a word that names no object."""
        if token == "of" and before in _SIGNS:
            self._listed = self._closed = False
            self._words = 0
            return True
        if token in _ARTICLES:
            return self._takes_article(before)
        if self._narrow and not self._listed:
            return self._is_said_of(token, before)
        if token in _JOINS:
            return self._joins(token)
        return token not in _ENDS and not self._closed and self._takes_word(token, before)

    def reaches(self, before: str, rest: Sequence[str]) -> bool:
        """Whether an object is denied that it goes on to.

        One behind a comma is part of the list only if that ends in `or`: `no trees, cars or
        buses`, but `no trees, cars on the left`. One behind `and` begins something new if it does
        something: `no clouds and people flying a kite`.

        Args:
            before: the word in front of the object.
            rest: what follows it.
        """
        if self._closed or self._unseen or (self._words > 1 and _PLURAL.fullmatch(before)):
            return False
        following = rest[0] if rest else "."
        if self._join in (",", "and") and following.endswith(("ing", "ed")):
            return False
        if self._join == ",":
            end = next((at for at, token in enumerate(rest) if token in _ENDS), len(rest))
            if self._listed:
                return not following[0].isalnum() or bool({"or", "nor", "and"} & set(rest[:end]))
            return bool({"or", "nor"} & set(rest[:end]))
        return True

    def _takes_article(self, before: str) -> bool:
        if self._closed or self._words:
            return False
        if self._listed:
            # `no car, a bus`, but `without a car, a bus`.
            return self._article or before in ("or", "nor")
        self._article = before not in (",", "and")
        return self._article

    def _joins(self, token: str) -> bool:
        if token in (",", "or", "nor", "and"):
            self._join, self._words, self._closed = token, 0, False
        return not self._closed

    def _takes_word(self, token: str, before: str) -> bool:
        """Whether a word may belong to the noun that is denied."""
        if token in _HAVING and not self._words:
            return True
        if self._words and (token == "of" or _is_verb(token, before)):
            return False
        self._words += 1
        return True

    def _is_said_of(self, token: str, before: str) -> bool:
        """Whether `not` may still be said of an object behind this word."""
        self._unseen = (
            self._unseen or (token in _PERCEIVE and not self._speaker)
        ) and token != "any"
        if token in _SIGNS:
            self._words = 1
            return True
        if token in _LOOKING or token in _PERCEIVE:
            return True
        if not self._article or token in _ENDS or token in (",", "and"):
            return False
        return self._joins(token) if token in _JOINS else self._takes_word(token, before)


def _is_verb(token: str, before: str) -> bool:
    """Whether a word behind one of a noun's belongs to it no more: `no shirt riding`."""
    doing = len(token) > 4 and token.endswith("ing")
    return bool(_PLURAL.fullmatch(before)) or (
        doing and not before.endswith("ly") and before not in ("fast", "slow")
    )


def _opens(tokens: Sequence[str], at: int) -> _Scope | None:
    """The scope that begins with a word, if it is a negation."""
    token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
    before = tokens[max(0, at - 3) : at]
    if following in _NOT_DENIED:
        return None
    if token in _NO or (token in _OF and before and before[-1] in _NOT_OF):
        named = token == "no" and before and before[-1] in ("a", "the")  # `a no parking sign`
        return None if named else _Scope(narrow=False)
    if token == "missing" and following in _ARTICLES - {"the"}:  # not as one misses the ball
        return _Scope(narrow=False)
    if token in _NOT or token.endswith("n't"):
        return _Scope(narrow=True, speaker=len(before) < 2 or bool(_SPEAKERS & set(before)))
    return None
