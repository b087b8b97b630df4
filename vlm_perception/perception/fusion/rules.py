# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Rules about hazards, and about contradictions between the fast and the slow path.

A tag makes a hazard whatever the slow path answers: it belongs to this very frame. An answer of the
slow path can only add one, and only while it is fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.types import Attribute, Tag


class RuleError(VlmPerceptionError):
    """A rule is not written as it should be; the message says how."""


@dataclass(frozen=True)
class Answer:
    """An answer of the slow path: an attribute with this value."""

    attribute: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Answer:
        """Read 'attribute=value'.

        Raises:
            RuleError: It is written otherwise.
        """
        attribute, _, value = (part.strip() for part in text.partition("="))
        if not (attribute and value):
            raise RuleError(f"the answer {text!r} is not written as 'attribute=value'")
        return cls(attribute, value)


@dataclass(frozen=True)
class Hazard:
    """A danger: the label's tag shows it, and so does the answer, if there is one."""

    label: str
    answer: Answer | None = None

    @classmethod
    def parse(cls, line: str) -> Hazard:
        """Read 'label' or 'label | attribute=value'.

        Raises:
            RuleError: It is written otherwise.
        """
        label, bar, answer = (part.strip() for part in line.partition("|"))
        if not label or (bar and not answer):
            raise RuleError(f"{line!r} is not written as 'label' or 'label | attribute=value'")
        return cls(label, Answer.parse(answer) if bar else None)


@dataclass(frozen=True)
class Contradiction:
    """A tag of the fast path that cannot hold while the slow path gives this answer."""

    answer: Answer
    label: str

    @classmethod
    def parse(cls, line: str) -> Contradiction:
        """Read 'attribute=value | label'.

        Raises:
            RuleError: It is written otherwise.
        """
        answer, _, label = (part.strip() for part in line.partition("|"))
        if not label:
            raise RuleError(f"{line!r} is not written as 'attribute=value | label'")
        return cls(Answer.parse(answer), label)


def present_hazards(
    rules: Iterable[Hazard], tags: Sequence[Tag], attributes: Sequence[Attribute]
) -> tuple[str, ...]:
    """Return the labels of the dangers, those that are tagged first, the likeliest first.

    Args:
        rules: what is a danger.
        tags: of the fast path, the likeliest first.
        attributes: fresh answers of the slow path; none while they are stale.
    """
    rules = tuple(rules)
    dangers = {rule.label for rule in rules}
    answers = answers_of(attributes)
    seen = [tag.label for tag in tags if tag.label in dangers]
    answered = [rule.label for rule in rules if rule.answer in answers]
    return tuple(dict.fromkeys(seen + answered))


def watched_labels(rules: Iterable[Hazard], labels: Iterable[str]) -> str:
    """A sentence on the rules that a vocabulary can show; empty: there are rules, and it has none.

    Args:
        rules: what is a danger.
        labels: the vocabulary.
    """
    labels = frozenset(labels)
    dangers = dict.fromkeys(rule.label for rule in rules)
    shown = [label for label in dangers if label in labels]
    if not dangers:
        return "no hazards are set: the parameter hazards names the labels that are a danger"
    if not shown:
        return ""
    names = ", ".join(shown)
    return f"hazards that the vocabulary has a label for: {names} ({len(shown)} of {len(dangers)})"


def answers_of(attributes: Iterable[Attribute]) -> frozenset[Answer]:
    """Return the answers that attributes give."""
    return frozenset(Answer(each.name, each.value) for each in attributes)


class ConflictWatch:
    """Finds contradictions that last: a tag that comes and goes at once is none."""

    def __init__(self, rules: Sequence[Contradiction], frames: int) -> None:
        """Watch these rules; a contradiction counts after this many frames in a row."""
        self._rules = tuple(rules)
        self._frames = frames
        self._lasted = dict.fromkeys(self._rules, 0)

    def look(self, tags: Sequence[Tag], attributes: Sequence[Attribute]) -> tuple[str, ...]:
        """Look at one frame; return a sentence for each contradiction, the same in each frame."""
        labels, answers = {tag.label for tag in tags}, answers_of(attributes)
        for rule in self._rules:
            holds = rule.label in labels and rule.answer in answers
            self._lasted[rule] = self._lasted[rule] + 1 if holds else 0
        return tuple(
            f"{rule.label} is tagged, and {rule.answer.attribute} is said to be "
            f"{rule.answer.value}; the tag counts"
            for rule in self._rules
            if self._lasted[rule] >= self._frames
        )

    def reset(self) -> None:
        """Forget what was seen."""
        self._lasted = dict.fromkeys(self._rules, 0)
