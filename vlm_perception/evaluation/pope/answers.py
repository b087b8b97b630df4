# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers in POPE's published format, and which question each of them is of.

The published script pairs line with line in silence; here an answer belongs to a question because
it says so, by its question's id, by image and text, or by its text in the order of the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
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
    """A line of a file of answers, with what it says of its question."""

    text: str
    question: str | None = None
    image: str | None = None
    question_id: int | str | None = None


@dataclass
class Paired:
    """Answers by the index of their question, and what is wrong with the rest."""

    questions: int
    """How many there are."""
    texts: dict[int, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Questions without an answer."""
    doubled: list[str] = field(default_factory=list)
    """Questions with more than one; the first counts."""
    foreign: list[str] = field(default_factory=list)
    """What answers are of that are of none of the questions."""
    out_of_order: list[str] = field(default_factory=list)
    """Questions whose answer stands elsewhere than in their order. It counts, unless nothing but a
    text that several questions have says which it is of."""

    @property
    def complete(self) -> bool:
        """Whether each question has its one answer."""
        return len(self.texts) == self.questions and not (self.doubled or self.foreign)

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {"answered": len(self.texts), **{k: len(named) for k, named in self._faults()}}

    def told(self) -> str:
        """What is wrong, with the first ones named; empty when nothing is."""
        parts = []
        for kind, named in self._faults():
            if named:
                rest = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
                words = kind.replace("_", " ")
                parts.append(f"{len(named)} {words} ({'; '.join(named[:NAMED])}{rest})")
        return ", ".join(parts)

    def _faults(self) -> Iterator[tuple[str, list[str]]]:
        for kind in ("missing", "doubled", "foreign", "out_of_order"):
            yield kind, getattr(self, kind)


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
        arrays=True,
    )
    found = []
    for where, content in lines:
        text, question, image = (content.get(key) for key in ("answer", "question", "image"))
        identity = content.get("question_id")
        if not isinstance(text, str):
            raise lines.bad(where, "`answer` must be a text")
        if not all(value is None or isinstance(value, str) for value in (question, image)):
            raise lines.bad(where, "`question` and `image` must be texts")
        if not isinstance(identity, int | str | None) or isinstance(identity, bool):
            raise lines.bad(where, "`question_id` must be a number or a text")
        found.append(Answer(text, question, image, identity))
    if not found:
        raise PopeError(f"{file} holds no answer; write lines such as {lines.example}")
    return found


def pair(questions: Sequence[Question], answers: Sequence[Answer]) -> Paired:
    """Find the question of each answer.

    By its `question_id` where it has one, else by image and text where it has both and no two
    questions share them, else by its text in the order of the questions; and where no answer of the
    file says anything, by order alone. An answer out of order counts if its text is asked once.
    Texts count up to the first question mark, in any case; ids as they are written, 1 like "1".

    Raises:
        PopeError: most answers are of none of the questions, or nothing says of which.
    """
    named = [f"{question.question_id}: {question.text}" for question in questions]
    asked = [(question.image, _plain(question.text)) for question in questions]
    paired = Paired(len(questions))
    if all(each.question is each.question_id is None for each in answers):
        _without_texts(paired, named, answers)
        return paired
    rest = _by_key(paired, named, _keys(questions, asked), answers)
    unclear = _in_order(paired, [text for _, text in asked], [answers[line] for line in rest])
    waited = Counter(unclear)
    for index, (_, text) in enumerate(asked):
        if index not in paired.texts:
            if waited[text]:
                waited[text] -= 1
            else:
                paired.missing.append(named[index])
    _require_most(paired, len(unclear), len(answers))
    return paired


def _require_most(paired: Paired, unclear: int, answers: int) -> None:
    """Refuse figures of the few answers that happen to fit."""
    lost = len(paired.foreign) + unclear
    if 2 * lost <= answers and paired.texts:
        return
    whose = (
        f"are of none of the questions, the first of {paired.foreign[0]!r}"
        if len(paired.foreign) > unclear
        else "stand out of order, and several questions have their text"
    )
    raise PopeError(
        f"{lost} of {answers} answers cannot be used: most of them {whose}; give them a "
        "`question_id`, or leave `question` out where they are in the order of the questions"
    )


def _plain(text: str) -> str:
    return " ".join(text.partition("?")[0].casefold().split())


def _keys(questions: Sequence[Question], asked: Sequence[tuple[str, str]]) -> dict[Hashable, int]:
    """The questions by their ids, and by image and text where only one has these."""
    often = Counter(asked)
    keys: dict[Hashable, int] = {key: i for i, key in enumerate(asked) if often[key] == 1}
    return keys | {str(question.question_id): i for i, question in enumerate(questions)}


def _by_key(
    paired: Paired, named: Sequence[str], keys: Mapping[Hashable, int], answers: Sequence[Answer]
) -> list[int]:
    """Pair the answers that say which question they are of; the lines of the others."""
    rest, furthest = [], -1
    for line, answer in enumerate(answers):
        if answer.question_id is not None:
            index = keys.get(str(answer.question_id))
        else:
            index = keys.get((answer.image, _plain(answer.question or "")))
            if index is None:
                rest.append(line)
                continue
        if index is None:
            paired.foreign.append(str(answer.question_id))
        elif index in paired.texts:
            paired.doubled.append(named[index])
        else:
            paired.texts[index] = answer.text
            if index < furthest:
                paired.out_of_order.append(named[index])
            furthest = max(furthest, index)
    return rest


def _without_texts(paired: Paired, named: Sequence[str], answers: Sequence[Answer]) -> None:
    paired.texts |= enumerate(answer.text for answer in answers[: len(named)])
    paired.foreign += [f"answer {number + 1}" for number in range(len(named), len(answers))]
    paired.missing += named[len(answers) :]


def _in_order(paired: Paired, asked: Sequence[str], answers: Sequence[Answer]) -> list[str]:
    """Pair answers by their texts; those of answers out of order that several questions have."""
    open_ = [index for index in range(len(asked)) if index not in paired.texts]
    told = [_plain(answer.question or "") for answer in answers]
    matched = _longest_order([asked[index] for index in open_], told)
    paired.texts |= {open_[place]: answers[line].text for place, line in matched}
    lines = {line for _, line in matched}
    once = {text: index for index, text in enumerate(asked)}
    often = Counter(asked)
    without = Counter(text for index, text in enumerate(asked) if index not in paired.texts)
    unclear = []
    for line, text in enumerate(told):
        if line in lines:
            continue
        shown = answers[line].question or "an answer without a question"
        if not without[text]:
            (paired.doubled if often[text] else paired.foreign).append(shown)
            continue
        without[text] -= 1
        paired.out_of_order.append(shown)
        if often[text] == 1:
            paired.texts[once[text]] = answers[line].text
        else:
            unclear.append(text)
    return unclear


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
