# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers in POPE's published format, and which question each of them is of.

The published script pairs line with line in silence; here an answer belongs to a question because
it says so, by its question's id, its image and text, or its text in the order of the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import takewhile
from pathlib import Path

from vlm_perception.common.json_lines import JsonLines
from vlm_perception.evaluation.pope.questions import PopeError, Question

NAMED = 3
"""How many questions a sentence names; it counts the others."""
MOST_PAIRS = 25_000_000
"""Questions times answers that are compared where the two differ."""


@dataclass(frozen=True)
class Answer:
    """A line of a file of answers."""

    text: str
    question: str | None
    image: str | None
    question_id: int | str | None


@dataclass
class Paired:
    """Answers by the index of their question, and what is wrong with the rest."""

    texts: dict[int, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Questions without an answer."""
    doubled: list[str] = field(default_factory=list)
    """Questions with more than one; the first counts."""
    foreign: list[str] = field(default_factory=list)
    """What answers are of that are of none of the questions."""
    out_of_order: list[str] = field(default_factory=list)
    """Questions whose answer stands elsewhere than in their order."""

    @property
    def complete(self) -> bool:
        """Whether each question has its one answer."""
        return not (self.missing or self.doubled or self.foreign)

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        kinds = ("missing", "doubled", "foreign", "out_of_order")
        return {"answered": len(self.texts), **{kind: len(getattr(self, kind)) for kind in kinds}}

    def told(self) -> str:
        """What is wrong, with the first ones named; empty when nothing is."""
        parts = []
        for kind, named in vars(self).items():
            if kind != "texts" and named:
                rest = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
                words = kind.replace("_", " ")
                parts.append(f"{len(named)} {words} ({'; '.join(named[:NAMED])}{rest})")
        return ", ".join(parts)


def read_answers(file: Path) -> list[Answer]:
    """Answers of a file in the published format.

    `{"question": "Is there a dog in the image?", "answer": "No."}`; `question_id` and `image` may
    be there, too, as in the files of questions.

    Raises:
        PopeError: it is missing, damaged or empty.
    """
    lines = JsonLines(
        file,
        "an answer to a question of POPE",
        '{"question": "Is there a dog in the image?", "answer": "No."}',
        PopeError,
    )
    found = []
    for where, content in lines:
        text, question, image = (content.get(key) for key in ("answer", "question", "image"))
        identity = content.get("question_id")
        if not isinstance(text, str):
            raise lines.bad(where, "`answer` must be a text")
        if not all(value is None or isinstance(value, str) for value in (question, image)):
            raise lines.bad(where, "`question` and `image` must be texts")
        if not isinstance(identity, int | str | None):
            raise lines.bad(where, "`question_id` must be a number or a text")
        found.append(Answer(text, question, image, identity))
    if not found:
        raise PopeError(f"{file} holds no answer; write lines such as {lines.example}")
    return found


def pair(questions: Sequence[Question], answers: Sequence[Answer]) -> Paired:
    """Find the question of each answer.

    By `question_id` where all answers have one, else by image and text where all have both and no
    two questions share them, else by text in the order of the questions, and where there are no
    texts by order alone. Texts count up to the first question mark, in any case.

    Raises:
        PopeError: no answer is of any of the questions, or they differ in too many places.
    """
    named = [f"{question.question_id}: {question.text}" for question in questions]
    asked = [(question.image, _plain(question.text)) for question in questions]
    if all(answer.question_id is not None for answer in answers):
        identities = [question.question_id for question in questions]
        paired = _by_key(named, identities, [answer.question_id for answer in answers], answers)
    elif all(a.image and a.question for a in answers) and len(set(asked)) == len(asked):
        told = [(answer.image, _plain(answer.question or "")) for answer in answers]
        paired = _by_key(named, asked, told, answers)
    elif any(answer.question is not None for answer in answers):
        paired = _in_order(named, [text for _, text in asked], answers)
    else:
        paired = _without_texts(named, answers)
    if not paired.texts:
        raise PopeError(
            f"no answer is of any of the questions; the first is of {paired.foreign[0]!r}: give "
            "answers to these questions, or leave `question` out where they are in their order"
        )
    return paired


def _plain(text: str) -> str:
    return " ".join(text.partition("?")[0].casefold().split())


def _by_key(
    named: Sequence[str],
    keys: Sequence[Hashable],
    told: Sequence[Hashable],
    answers: Sequence[Answer],
) -> Paired:
    place, paired, furthest = {key: i for i, key in enumerate(keys)}, Paired(), -1
    for key, answer in zip(told, answers, strict=True):
        index = place.get(key)
        if index is None:
            paired.foreign.append(str(key))
        elif index in paired.texts:
            paired.doubled.append(named[index])
        else:
            paired.texts[index] = answer.text
            if index < furthest:
                paired.out_of_order.append(named[index])
            furthest = max(furthest, index)
    paired.missing = [name for index, name in enumerate(named) if index not in paired.texts]
    return paired


def _without_texts(named: Sequence[str], answers: Sequence[Answer]) -> Paired:
    pairs = enumerate(answer.text for answer in answers[: len(named)])
    surplus = [f"answer {number + 1}" for number in range(len(named), len(answers))]
    return Paired(dict(pairs), missing=list(named[len(answers) :]), foreign=surplus)


def _in_order(named: Sequence[str], asked: Sequence[str], answers: Sequence[Answer]) -> Paired:
    told = [_plain(answer.question or "") for answer in answers]
    matched = _longest_order(asked, told)
    paired = Paired({index: answers[line].text for index, line in matched})
    lines = {line for _, line in matched}
    rest = [line for line in range(len(told)) if line not in lines]
    without = Counter(text for i, text in enumerate(asked) if i not in paired.texts)
    known, moved = set(asked), Counter[str]()
    for line in rest:
        text, shown = told[line], answers[line].question or f"answer {line + 1}"
        if moved[text] < without[text]:
            moved[text] += 1
            paired.out_of_order.append(shown)
        else:
            (paired.doubled if text in known else paired.foreign).append(shown)
    paired.missing = [name for index, name in enumerate(named) if index not in paired.texts]
    return paired


def _longest_order(asked: Sequence[str], told: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of equal texts, rising in both; what is equal at both ends is paired first."""
    head = _equal(asked, told)
    tail = _equal(asked[head:][::-1], told[head:][::-1])
    ours, theirs = asked[head : len(asked) - tail], told[head : len(told) - tail]
    if len(ours) * len(theirs) > MOST_PAIRS:
        raise PopeError(
            "the answers differ from the questions in too many places; give them a `question_id`"
        )
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [
        *((index, index) for index in range(head)),
        *((head + a + i, head + b + i) for a, b, size in blocks for i in range(size)),
        *((len(asked) - i, len(told) - i) for i in range(tail, 0, -1)),
    ]


def _equal(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many texts are equal from the first on."""
    return sum(
        1 for _ in takewhile(lambda both: both[0] == both[1], zip(ours, theirs, strict=False))
    )
