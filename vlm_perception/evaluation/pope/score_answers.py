# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""POPE's figures of answers that are in files, such as another program's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from vlm_perception.evaluation.pope.answers import Paired, pair, read_answers
from vlm_perception.evaluation.pope.metrics import Record, figures
from vlm_perception.evaluation.pope.questions import (
    PopeError,
    Question,
    as_json,
    files_by_split,
    read_questions,
)
from vlm_perception.evaluation.pope.telling import FREE_TEXT, described, table, verdict
from vlm_perception.evaluation.report import FAILED, Report

METRIC = "the published script's, by free text"
"""What the figures are, those under `pope` included: of another program there are only texts."""


def run(questions: Sequence[str], answers: Sequence[str]) -> Report:
    """Score files of answers in the published format.

    The figures are of the questions that have an answer; the exit code is 1 unless each has one.

    Args:
        questions: files in the published format, each named after its set or as `random=FILE`.
        answers: a file for each of these, named likewise.

    Raises:
        PopeError: a file cannot be used, or its counterpart is missing.
    """
    asked, answered = _files(questions, answers)
    found = {split: read_questions(file) for split, file in asked.items()}
    paired = {split: pair(found[split], read_answers(file)) for split, file in answered.items()}
    records = [
        Record(split, q.question_id, q.image, q.text, q.label, paired[split].texts[index])
        for split, questions_of in found.items()
        for index, q in enumerate(questions_of)
        if index in paired[split].texts
    ]
    return _report(records, asked, found, paired)


def _files(
    questions: Sequence[str], answers: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Path]]:
    asked = files_by_split(questions, "--questions")
    if len(asked) == len(answers) == 1 and "=" not in answers[0]:
        return asked, {next(iter(asked)): Path(answers[0])}
    answered = files_by_split(answers, "--answers")
    alone = sorted(asked.keys() ^ answered.keys())
    if alone:
        split = alone[0]
        kind, file = ("answers", asked[split]) if split in asked else ("questions", answered[split])
        raise PopeError(f"there are no {kind} for {file}; give them as --{kind} {split}=FILE")
    return asked, answered


def _report(
    records: Sequence[Record],
    files: Mapping[str, Path],
    questions: Mapping[str, Sequence[Question]],
    paired: Mapping[str, Paired],
) -> Report:
    found: dict[str, Any] = figures(records)
    parts: list[RenderableType] = [
        table(f"POPE: {FREE_TEXT}", found["pope_free_text"]),
        verdict({FREE_TEXT: found["pope_free_text"]}),
        *(f"{split}: {each.told()}" for split, each in paired.items() if each.told()),
    ]
    complete = all(each.complete for each in paired.values())
    if not complete:
        parts.append(
            "The figures are of the questions that have an answer, the first where it has two"
        )
    name = ", ".join(file.stem for file in files.values())
    versions = {split: _digest(each) for split, each in questions.items()}
    return Report(
        parts,
        {
            **found,
            "metric": METRIC,
            **described(records, name, versions),
            "complete": complete,
            "answers": {split: each.counts() for split, each in paired.items()},
        },
        code=0 if complete else FAILED,
    )


def _digest(questions: Sequence[Question]) -> str:
    lines = "".join(json.dumps(as_json(question)) + "\n" for question in questions)
    return hashlib.sha256(lines.encode()).hexdigest()
