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


_ARTICLES = _set("a an the this that these those some several many few two three four five another")
_NO = _set("no without zero lacks lacking lack neither nor")
"""What follows is not there, up to the end of the list."""
_NOT = _set("not never cannot hardly scarcely")
"""As these and as every word in n't, if it is said of the object and of nothing else."""
_NOT_OF = _set("free devoid empty clear absence lack instead rather")
"""As the first, with one of the next words behind them: `free of`, `rather than`."""
_OF = _set("of from than")
_NOT_DENIED = _set("only just merely fewer less more far doubt")
"""Behind a negation they make it none: `not only a car`, `no fewer than two cars`."""
_LOOKING = _set(
    "any see seen show shown contain have include depict feature find notice spot detect observe "
    "be seem appear to visible single really actually there of sign signs trace other"
)
"""Words between `not` and the object that it denies."""
_JOINS = _set(", or nor and any either other")
_ENDS = _set(
    ". ; : ! ? but except however although though while whereas yet instead only with there is are "
    "was were has have shows contains includes depicts features sees in on at near behind beside "
    "beneath between next by under over along to from across around ahead who which that"
)
"""Words that end what a negation denies."""
_ABSENT = re.compile(
    r"(?:is|are|was|were|can|could|do|does|did)?\s?(?:not|never|cannot|no\slonger|\w+n't)\s"
    r"(?:be\s|to\sbe\s|currently\s)?"
    r"(?:visible|present|seen|there|here|found|detected|shown|appear(?!\sto)|"
    r"in\s(?:the\s)?(?:image|picture|photo|scene|frame|view|sight))\b"
    r"|(?:is|are|was|were)\s(?:absent|missing|nowhere)\b"
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
            if scope is not None and scope.reaches(tokens[starts[at].end :]):
                denied.add(starts[at])
                scope.listed = True
            else:
                scope = None
        elif at in inside:
            continue
        elif (opened := _opens(tokens, at)) is not None:
            scope = opened
        elif scope is not None and not scope.goes_on(tokens, at):
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
    """What a negation denies, while a text is gone through behind it."""

    def __init__(self, narrow: bool) -> None:
        """Begin.

        Args:
            narrow: it denies an object only if it is said of it, as `not` does.
        """
        self._narrow = narrow
        self._article = self._comma = False
        self.listed = False
        """Whether an object was denied; what follows must be a list of such."""

    def goes_on(self, tokens: Sequence[str], at: int) -> bool:
        """Whether it still holds behind a word that names no object."""
        return (self._in_list if self.listed else self._before)(tokens[at], tokens[at - 1])

    def reaches(self, rest: Sequence[str]) -> bool:
        """Whether an object is denied that it goes on to.

        One behind a comma is part of the list only if that ends in `or`: `no trees, cars or
        buses`, but `no trees, cars on the left`.
        """
        if self.listed or not self._comma:
            return True
        end = next((at for at, token in enumerate(rest) if token in _ENDS), len(rest))
        return bool({"or", "nor"} & set(rest[:end]))

    def _in_list(self, token: str, before: str) -> bool:
        if token in _ARTICLES:
            # `no car, a bus`, but `without a car, a bus`.
            return self._article or before in ("or", "nor")
        return token not in _ENDS

    def _before(self, token: str, before: str) -> bool:
        """Up to the first object."""
        self._comma = token == "," or (self._comma and token not in _JOINS)
        if token in _ARTICLES:
            self._article = before not in (",", "and")
            return self._article
        if not self._narrow:
            return token not in _ENDS
        if token in _LOOKING:
            return True
        return self._article and token not in (*_ENDS, ",", "and")


def _opens(tokens: Sequence[str], at: int) -> _Scope | None:
    """The scope that begins with a word, if it is a negation."""
    token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
    if following in _NOT_DENIED:
        return None
    if token in _NO or (token in _OF and at > 0 and tokens[at - 1] in _NOT_OF):
        return _Scope(narrow=False)
    return _Scope(narrow=True) if token in _NOT or token.endswith("n't") else None
