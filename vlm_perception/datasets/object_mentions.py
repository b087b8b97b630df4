# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which labelled objects an English text says are there."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.denials import Span, denied
from vlm_perception.datasets.inflection import forms

_TOKEN = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_FREE = re.compile(r"\w+(?:-\w+)*-free\b")
"""What there is none of: `car-free`."""


class ObjectNameError(VlmPerceptionError):
    """Names of objects contradict each other; the message says which."""


class ObjectNames:
    """Finds labels in English texts: in the singular and the plural, by their synonyms.

    An object that the text says is not there (`no cars`, `without a bus or a truck`, `cars are not
    visible`) is not found; nor are the first words of a longer name.
    """

    def __init__(
        self,
        labels: Iterable[str],
        synonyms: Mapping[str, Sequence[str]] | None = None,
        others: Iterable[str] = (),
        vocabulary: Iterable[str] = (),
    ) -> None:
        """Prepare the forms of all names.

        Args:
            labels: those to find. Two that have a form in common, as `car` and `cars`, are one,
                the first; not those that `synonyms` knows.
            synonyms: by label, which is found, too, if it is not among `labels`; one of these that
                is a synonym of another is no label of its own.
            others: phrases that name none of them though they contain one, as `hot dog`.
            vocabulary: further labels to find, but none that is among `others`, and none that ends
                in another label, as `red traffic light`: it is found as that.

        Raises:
            ObjectNameError: a phrase stands for two things.
        """
        self._labels: dict[str, str | None] = {}
        for label, phrases in (synonyms or {}).items():
            for phrase in (label, *phrases):
                self._add(phrase, label)
        self.joined: dict[str, str] = {}
        """Labels that are one thing with another, and that one; without the synonyms."""
        for label in labels:
            self._add_label(label)
        for phrase in others:
            self._add(phrase, None)
        for label in vocabulary:
            if not any(_words(label).endswith(f" {known}") for known in self._labels):
                self._add_label(label)
        for words, named in list(self._labels.items()):
            for form in forms(words):
                self._labels.setdefault(form, named)
        self._forms = sorted(self._labels)
        self._longest = max((form.count(" ") + 1 for form in self._forms), default=0)

    @property
    def described(self) -> str:
        """All forms, each with its label: the same for names that find the same."""
        return "\n".join(f"{form}: {self._labels[form] or ''}" for form in self._forms)

    @property
    def labels(self) -> frozenset[str]:
        """Those that are found; each stands for those that are one with it."""
        return frozenset(label for label in self._labels.values() if label is not None)

    def _add_label(self, label: str) -> None:
        words = _words(label)
        if words in self._labels:
            return
        known = sorted(forms(words) & self._labels.keys())
        named = self._labels[known[0]] if known else label
        if known and named is not None:
            self.joined[label] = named
        self._labels[words] = named

    def _add(self, phrase: str, label: str | None) -> None:
        words = _words(phrase)
        if self._labels.setdefault(words, label) != label:
            raise ObjectNameError(
                f"{phrase!r} stands for {self._labels[words] or 'no label'!r} and for "
                f"{label or 'no label'!r}; let it stand for one of them"
            )

    def label(self, name: str) -> str:
        """The label that a name stands for; the name itself where it is not known."""
        return self._labels.get(_words(name)) or name

    def named(self, text: str, *, finished: bool = True) -> frozenset[str]:
        """The labels of the objects that a text says are there.

        Args:
            text: in English.
            finished: whether no more of it comes; else a word at its end is found only once it is
                known to be whole, and to be no part of a longer name.
        """
        tokens = _tokens(text)
        mentions = dict(self._mentions(tokens))
        denials = denied(tokens, list(mentions))
        return frozenset(
            label
            for span, label in mentions.items()
            if label is not None
            and span not in denials
            and (finished or not self._may_go_on(text, tokens, span))
        )

    def _mentions(self, tokens: Sequence[str]) -> Iterator[tuple[Span, str | None]]:
        """From left to right, the longest name first."""
        at = 0
        while at < len(tokens):
            for end in range(min(at + self._longest, len(tokens)), at, -1):
                words = " ".join(tokens[at:end])
                if words in self._labels:
                    yield Span(at, end), self._labels[words]
                    at = end - 1
                    break
            at += 1

    def _may_go_on(self, text: str, tokens: Sequence[str], mention: Span) -> bool:
        """Whether what follows the text may make another name of a mention."""
        broken_off = text[-1:].isalnum()
        if broken_off and mention.end == len(tokens):
            return True
        rest = " ".join(tokens[mention.start :]) + ("" if broken_off else " ")
        following = bisect_left(self._forms, rest)
        return following < len(self._forms) and self._forms[following].startswith(rest)


def _tokens(text: str) -> list[str]:
    """Words in lower case and marks of punctuation; hyphens separate words."""
    plain = _FREE.sub(" ", text.lower().replace("\u2019", "'"))
    return _TOKEN.findall(re.sub(r"'s\b", "", plain.replace("-", " ").replace("_", " ")))


def _words(name: str) -> str:
    return " ".join(_tokens(name))
