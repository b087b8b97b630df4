# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How often a bundle sees objects that are not there: POPE, by likelihood and by what it writes.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models (EMNLP 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.json_lines import write_lines
from vlm_perception.evaluation.image_sets import left_out
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.pope.metrics import Record, figures
from vlm_perception.evaluation.pope.poll import MOST_TOKENS, Polled, poll
from vlm_perception.evaluation.pope.questions import (
    PUBLISHED,
    as_json,
    files_by_split,
)
from vlm_perception.evaluation.pope.sets import (
    PopeSet,
    given_questions,
    labelled_folder,
    road_world,
)
from vlm_perception.evaluation.pope.telling import (
    BY_LIKELIHOOD,
    FREE_TEXT,
    described,
    table,
    verdict,
)
from vlm_perception.evaluation.report import Report
from vlm_perception.outputs.folder import ResultsFolder

VERB = "evaluate pope"
JOURNAL = "finished.jsonl"
RECORDS = "records.jsonl"
QUESTIONS, LIKELIHOOD, WRITTEN = "questions", "likelihood", "free_text"
METRIC = "pope: the published script's, by likelihood; pope_free_text: the same, by free text"
RESULTS = (RECORDS, *(f"{folder}/*.jsonl" for folder in (QUESTIONS, LIKELIHOOD, WRITTEN)))


def run(
    bundle: str,
    out: Path,
    *,
    questions: Sequence[str] = (),
    images: Path | None = None,
    data: Path | None = None,
    wording: str = PUBLISHED,
    scenes: int = 0,
    skip_broken: bool = False,
) -> Report:
    """Ask a bundle POPE's questions.

    Args:
        bundle: the model's name or directory.
        out: folder for questions, answers and records; an interrupted run goes on there.
        questions: files in the published format, each named after its set or as `random=FILE`.
        images: the folder of their images.
        data: in their place, a folder whose `objects.jsonl` tells what its images show.
        wording: of the questions about these, with {} in place of the object.
        scenes: in place of both, the number of scenes of the road world.
        skip_broken: leave out the images that are missing or broken.

    Raises:
        BundleError: the bundle cannot be used, or it has no language model.
        PopeError, ObjectsError: questions or objects cannot be used.
        FolderImagesError: images are missing or broken, and not to be left out.
        PromptError: a question leaves no room for an answer.
        JournalError, OutputError: `out` cannot be used.
    """
    model = ModelBundle.load(bundle)
    read = [model.path]
    if images is not None:
        files = files_by_split(questions, "--questions")
        read += [images, *files.values()]
        asked = given_questions(files, images, skip_broken=skip_broken)
    elif data is not None:
        read.append(data)
        asked = labelled_folder(data, wording, skip_broken=skip_broken)
    else:
        asked = road_world(scenes)
    return report(examine(model, asked, out, read), asked, model.digest, out)


def examine(model: ModelBundle, asked: PopeSet, out: Path, read: Sequence[Path]) -> list[Record]:
    """Ask a bundle a set of questions, and put all answers into a folder.

    Args:
        model: the bundle.
        asked: the questions.
        out: the folder.
        read: files and folders that the set is made from, which must not be in danger.
    """
    with ResultsFolder(out, VERB, RESULTS, read) as results:
        identity = {"bundle": model.digest, "tokens": MOST_TOKENS}
        with Journal(results.work / JOURNAL, identity) as journal:
            records = poll(Polled(model), asked, journal)
        _write(results.work, asked, records)
        results.publish()
    return records


def _write(folder: Path, asked: PopeSet, records: Sequence[Record]) -> None:
    write_lines(folder / RECORDS, [asdict(record) for record in records])
    for split, questions in asked.questions.items():
        name, here = f"{split}.jsonl", [record for record in records if record.split == split]
        likelier = [{"question": each.question, "answer": each.likelier} for each in here]
        written = [{"question": each.question, "answer": each.answer} for each in here]
        write_lines(folder / QUESTIONS / name, [as_json(question) for question in questions])
        write_lines(folder / LIKELIHOOD / name, likelier)
        write_lines(folder / WRITTEN / name, written)


def report(records: Sequence[Record], asked: PopeSet, digest: str, out: Path) -> Report:
    """The figures, and all that is needed to judge them."""
    found: dict[str, Any] = figures(records)
    parts: list[RenderableType] = [
        table(f"POPE: {BY_LIKELIHOOD}", found["pope"]),
        table(f"POPE: {FREE_TEXT}", found["pope_free_text"]),
        verdict({BY_LIKELIHOOD: found["pope"], FREE_TEXT: found["pope_free_text"]}),
        f"{len(records)} questions about {len({record.image for record in records})} images",
        *asked.notes(),
        f"Questions and answers in the published format are in {out}; POPE's evaluate.py takes "
        f"{LIKELIHOOD} or {WRITTEN} as ans_file, {QUESTIONS} as label_file",
    ]
    return Report(
        parts,
        {
            **found,
            "metric": METRIC,
            **described(records, asked.name, asked.versions()),
            "broken": left_out(asked.images.broken),
            "bundle_digest": digest,
        },
    )
