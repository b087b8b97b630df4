# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Texts of one bundle, or of two in pairs, as a judge on a server rates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from vlm_perception.evaluation.image_sets import left_out
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.judge.figures import EVEN, Kind, Record, figures, judged
from vlm_perception.evaluation.judge.rubric import (
    FIRST,
    SECOND,
    TIE,
    Rubric,
    read_score,
    read_verdict,
)
from vlm_perception.evaluation.judge.server import JudgeServer, Reply
from vlm_perception.evaluation.judge.sets import AskedSet, asked_set
from vlm_perception.evaluation.judge.tables import figure_notes, result_table
from vlm_perception.evaluation.judge.texts import (
    VERB,
    JudgeError,
    Written,
    content_digest,
    cut_notes,
    is_equal,
    load,
    write_all,
)
from vlm_perception.evaluation.report import FAILED, Report
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.outputs.own import own_folder
from vlm_perception.perception.language.served.sent_image import data_url
from vlm_perception.perception.served.completions import Request
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import Fault, ServedError

IMAGE_SIDE, JPEG_QUALITY = 768, 90
"""Of the images that are sent."""
SCORE, AB, BA = "score", "ab", "ba"
"""What an answer is about: one text, or two, that of the first bundle first or second."""
SHOWN = 5
"""Failures that are printed; the others are counted."""
NONSENSE = "the answer holds no score or verdict, or several"
_PREFERENCE = {FIRST: 1.0, TIE: EVEN, SECOND: 0.0}


@dataclass(frozen=True)
class Failure:
    """An answer of the judge that is none."""

    image: str
    question: str
    about: str
    """SCORE, AB or BA."""
    why: str


def run(
    bundle: str,
    against: str | None,
    data: Path | None,
    scenes: int,
    endpoint: Endpoint,
    out: Path,
    *,
    skip_broken: bool = False,
) -> Report:
    """Let a judge rate the texts of a bundle, or compare them with another bundle's.

    Args:
        bundle: name or path of the bundle.
        against: of the other one; None: the texts are rated one by one.
        data: a folder of images; None: the road world.
        scenes: how many of the road world.
        endpoint: the judge.
        out: folder for the texts and the judge's answers.
        skip_broken: leave out the images of the folder that are missing or broken.

    Raises:
        BundleError: a bundle cannot be used.
        JudgeError: there is nothing to judge, the judge stopped answering, or it gave no usable
            answer at all.
        QuestionsError: the questions are damaged.
        FolderImagesError: images are missing or broken and not to be left out.
        ServedError: the judge cannot be reached.
        OutputError: `out` is another's.
    """
    bundles = load([bundle, *([] if against is None else [against])])
    kind = Kind.SCORES if against is None else Kind.PAIRS
    judge, rubric = JudgeServer(endpoint), Rubric()
    info = judge.check()
    inputs = [each.path for each in bundles] + ([] if data is None else [data])
    with own_folder(out, VERB, inputs) as folder:
        chosen = asked_set(data, scenes, EXAM_SEED, skip_broken=skip_broken)
        written = write_all(bundles, chosen, folder)
        described = chosen.described()
        identity = {
            "judge": endpoint.model,
            "server": info.fingerprint,
            "rubric": rubric.digest,
            "bundles": [each.digest for each in bundles],
            "texts": content_digest(written),
            **described,
        }
        with Journal.named(folder, "answers", identity) as journal:
            try:
                _ask(judge, rubric, chosen, written, journal)
            except ServedError as error:
                raise _stopped(error, endpoint) from error
            records, failures = _records(written, journal.items)
        file = journal.file
    if not judged(records):
        raise JudgeError(
            f"the judge {endpoint.model} gave no usable answer, and {len(failures)} failures, the "
            f"first: {failures[0].why}; see what it sent in {file}, and use another model"
        )
    result = figures(records, kind)
    return Report(
        [
            result_table(result, kind, [each.manifest.name for each in bundles]),
            *figure_notes(result, kind, sum(map(is_equal, written))),
            *cut_notes(bundles, written),
            *_told(failures),
            *chosen.notes(),
            f"All answers of the judge are in {file}",
        ],
        {
            "judge": {
                "kind": kind.value,
                **result,
                "model": endpoint.model,
                "endpoint": endpoint.url,
                "rubric": rubric.digest,
                "failures": [vars(each) for each in failures],
                "records": records,
            },
            "bundle_digest": bundles[0].digest,
            "against_digest": bundles[1].digest if against is not None else None,
            "sets": [described],
            "broken": left_out(chosen.broken),
        },
        code=FAILED if failures else 0,
    )


def _stopped(error: ServedError, endpoint: Endpoint) -> JudgeError:
    """What to raise when no further question would be answered."""
    often = error.fault is Fault.RATE
    why = f"{endpoint.url} is asked too often; wait, or raise its limits" if often else str(error)
    return JudgeError(
        f"{why}; the answers so far are kept, and the same command goes on from there"
    )


def _ask(
    judge: JudgeServer,
    rubric: Rubric,
    chosen: AskedSet,
    written: Sequence[Written],
    journal: Journal,
) -> None:
    """Ask what the journal has no answer to; failures are asked again."""
    wanted = {name for each in written for name, _ in _asked_about(each)}
    missing = {name for name in wanted if journal.items.get(name, {"failure": "none"})["failure"]}
    if not missing:
        return
    with Progress(transient=True) as progress:
        task = progress.add_task("Judging", total=len(missing))

        def questions() -> Iterator[tuple[str, Request]]:
            for asked, each in zip(chosen, written, strict=True):
                few = [(name, texts) for name, texts in _asked_about(each) if name in missing]
                if not few:
                    continue
                image = data_url(asked.read(), IMAGE_SIDE, JPEG_QUALITY)
                for name, texts in few:
                    yield name, rubric.request(image, asked.question, *texts)

        def keep(name: str, reply: Reply) -> None:
            read = read_score if name.startswith(SCORE) else read_verdict
            said = None if reply.failure else read(reply.text)
            failure = reply.failure or (NONSENSE if said is None else "")
            journal.add(name, {"answer": reply.text, "said": said, "failure": failure})
            progress.advance(task)

        judge.ask(questions(), keep)


def _asked_about(written: Written) -> list[tuple[str, tuple[str, ...]]]:
    """The names of the questions, and the texts of each in the order in which they stand."""
    texts = written.texts
    key = written.key
    if len(texts) == 1:
        return [(f"{SCORE} {key}", texts)]
    return [] if is_equal(written) else [(f"{AB} {key}", texts), (f"{BA} {key}", texts[::-1])]


def _records(
    written: Sequence[Written], items: Mapping[str, Any]
) -> tuple[list[Record], list[Failure]]:
    records: list[Record] = []
    failures: list[Failure] = []
    for each in written:
        answers = {name.split()[0]: items[name] for name, _ in _asked_about(each)}
        failed = [
            Failure(each.image, each.question, about, item["failure"])
            for about, item in answers.items()
            if item["failure"]
        ]
        failures += failed
        said = {about: item["said"] for about, item in answers.items()}
        found = {"failure": failed[0].why} if failed else _found(said)
        records.append({**each.about, **found})
    return records, failures


def _found(said: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that comes from the answers, none of which is a failure."""
    if SCORE in said:
        return {"scores": [said[SCORE]]}
    if not said:
        return {"preference": [EVEN]}
    both = said[AB] == said[BA] and said[AB] != TIE
    return {
        "preference": [_PREFERENCE[said[AB]], 1.0 - _PREFERENCE[said[BA]]],
        "position": said[AB] if both else None,
    }


def _told(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    rest = len(failures) - SHOWN
    return [
        f"{len(failures)} answers failed, and what they were about is in none of the figures; the "
        "same command asks for them again",
        *(f"  {each.about}, {each.image}: {each.why}" for each in failures[:SHOWN]),
        *([f"  and {rest} more, in the JSON"] if rest > 0 else []),
    ]
