# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How well a bundle does standard sets, by the tasks of lmms-eval.

Zhang et al., LMMs-Eval: Reality Check on the Evaluation of Large Multimodal Models (2024).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from lmms_eval.evaluator import simple_evaluate
from loguru import logger
from rich.console import RenderableType

from vlm_perception.common.errors import RunError
from vlm_perception.common.json_lines import write_lines
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.lmms.figures import Record, figures, parts_of_mean
from vlm_perception.evaluation.lmms.judges import ConnectionMade, no_connections
from vlm_perception.evaluation.lmms.model import Asked, BundleModel
from vlm_perception.evaluation.lmms.respondent import Answer
from vlm_perception.evaluation.lmms.tasks import (
    Loaded,
    TasksError,
    judged,
    load,
    require_no_judge,
    settings_of_run,
)
from vlm_perception.evaluation.report import FAILED, Report, figure_table
from vlm_perception.outputs.folder import ResultsFolder

VERB = "evaluate lmms"
JOURNAL = "finished.jsonl"
RECORDS = "records.jsonl"
SUBMISSIONS = "submissions"
"""Where tasks of lmms-eval write files; some write into the working directory."""
RESULTS = (RECORDS, f"{SUBMISSIONS}/**/*")
SHOWN_REASONS = 5


def run(
    bundle: str,
    tasks: Sequence[str],
    out: Path,
    *,
    include: Path | None = None,
    limit: int | None = None,
) -> Report:
    """Evaluate a bundle on tasks of lmms-eval.

    Args:
        bundle: the model's name or directory.
        tasks: names of tasks, groups and tags.
        out: folder for answers, and for files that tasks write for submission; an interrupted run
            goes on there.
        include: a folder with further task files.
        limit: the first so many rows of each task; None: all.

    Raises:
        BundleError: the bundle cannot be used, or has no language model.
        TasksError, ProvenanceError, DecodingError: a task cannot be evaluated.
        JournalError, OutputError: `out` cannot be used.
        RunError: a task's code failed on the answers.
    """
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    model = BundleModel(bundle)
    loaded, manager = load(tasks, include)
    identity = {
        "bundle": model.digest,
        "lmms_eval": version("lmms-eval"),
        **{f"task {each.name}": [each.digest, each.data.version] for each in loaded},
    }
    read = [model.path, *(Path(each.data.path) for each in loaded if not each.data.revision)]
    read += [include] if include is not None else []
    with TemporaryDirectory() as trials:
        with _writing_into(Path(trials), loaded), redirect_stdout(StringIO()):
            for each in loaded:
                require_no_judge(each)
        with (
            ResultsFolder(out, VERB, RESULTS, read) as results,
            Journal(results.work / JOURNAL, identity) as journal,
        ):
            _keep_answers(model, journal)
            with _writing_into(results.work, loaded):
                found = _evaluated(model, loaded, manager, limit)
            with _writing_into(Path(trials), loaded), redirect_stdout(StringIO()), no_connections():
                records = {each.name: _records(each, found, model.answers) for each in loaded}
            rows = (asdict(row) for each in records.values() for row in each)
            write_lines(results.work / RECORDS, rows)
            results.publish()
    return _report(loaded, found, records, model.digest, out)


@contextmanager
def _writing_into(folder: Path, loaded: Sequence[Loaded]) -> Iterator[None]:
    """Let files of tasks, some of which go into the working directory, come below a folder."""
    before, submissions = Path.cwd(), folder / SUBMISSIONS
    submissions.mkdir(parents=True, exist_ok=True)
    for each in loaded:
        each.task.args = settings_of_run(folder)
    os.chdir(submissions)
    try:
        yield
    finally:
        os.chdir(before)


def _keep_answers(model: BundleModel, journal: Journal) -> None:
    """Take the answers of an interrupted run, and keep each new one; what failed is tried again."""
    for key, item in journal.items.items():
        if not item["error"]:
            model.answers[tuple(json.loads(key))] = Answer(**item)

    def keep(asked: Asked, answer: Answer) -> None:
        model.answers[asked] = answer
        journal.add(json.dumps(asked), asdict(answer))

    model.on_answer = keep


def _evaluated(
    model: BundleModel, loaded: Sequence[Loaded], manager: Any, limit: int | None
) -> Mapping[str, Any]:
    """What lmms-eval says, with its samples."""
    try:
        # What tasks print is no part of the report.
        with no_connections(), redirect_stdout(sys.stderr):
            found: Mapping[str, Any] = simple_evaluate(
                model=model,
                tasks=[each.task for each in loaded],
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                cli_args=loaded[0].task.args,
            )
    except ConnectionMade as made:
        raise TasksError(judged(" or ".join(each.name for each in loaded), str(made))) from made
    # Code of the tasks', which sees answers as no other model gives them.
    except Exception as error:
        raise RunError(
            f"lmms-eval failed ({error!r}); what was answered is kept, and the next run with this "
            "--out goes on from there"
        ) from error
    return found


def _records(
    each: Loaded, found: Mapping[str, Any], answers: Mapping[Asked, Answer]
) -> list[Record]:
    """The rows of a task, in the order of its split."""
    samples = found["samples"][each.name]
    rows = sorted({sample["doc_id"] for sample in samples})
    scores: dict[int, dict[str, float]] = {row: {} for row in rows}
    for number, key in enumerate(_filters(each, found)):
        of_filter = samples[number * len(rows) : (number + 1) * len(rows)]
        for metric in each.task.aggregation():
            having = [sample for sample in of_filter if metric in sample]
            parts = parts_of_mean(
                partial(each.aggregate, metric), [sample[metric] for sample in having]
            )
            for sample, part in zip(having, parts, strict=False):
                scores[sample["doc_id"]][_label(metric, key)] = part
    return [
        Record(
            each.name,
            row,
            (answer := answers[each.name, each.data.split, row, 0]).text,
            answer.tokens,
            answer.error,
            answer.moved,
            answer.cut,
            scores[row],
        )
        for row in rows
    ]


def _filters(each: Loaded, found: Mapping[str, Any]) -> list[str]:
    """Names of the task's ways to read answers, in the order in which lmms-eval scores them."""
    keys = [key.partition(",") for key in found["results"][each.name]]
    return list(dict.fromkeys(name for metric, comma, name in keys if comma))


def _label(metric: str, key: str) -> str:
    """A metric's name, with that of the way to read answers where the task has named one."""
    return metric if key == "none" else f"{metric}, {key}"


def _metrics(each: Loaded, found: Mapping[str, Any]) -> dict[str, float]:
    """What lmms-eval says of a task."""
    said = found["results"][each.name]
    values = {
        _label(metric, key): said.get(f"{metric},{key}")
        for key in _filters(each, found)
        for metric in each.task.aggregation()
    }
    return {
        label: float(value)
        for label, value in values.items()
        if isinstance(value, int | float | np.number)
    }


def _report(
    loaded: Sequence[Loaded],
    found: Mapping[str, Any],
    records: Mapping[str, Sequence[Record]],
    digest: str,
    out: Path,
) -> Report:
    used = f"lmms-eval {version('lmms-eval')}"
    table = figure_table(used, "task", "metric", "figure", "standard error", "rows", words=2)
    by_task: dict[str, dict[str, float]] = {}
    parts: list[RenderableType] = [table]
    for each in loaded:
        counted = figures(records[each.name])
        metrics = _metrics(each, found)
        for metric, value in metrics.items():
            error = counted.get(f"{metric}_stderr")
            shown = "" if error is None else f"{error:.4f}"
            table.add_row(each.name, metric, f"{value:.4f}", shown, f"{counted['rows']:.0f}")
        parts += _told(each, counted, records[each.name])
        by_task[each.name] = {**counted, **metrics}
    parts.append(f"Answers and files for submission are in {out}")
    silent = any(each["errors"] == each["rows"] for each in by_task.values())
    content = {
        "lmms_eval": version("lmms-eval"),
        "bundle_digest": digest,
        "sets": [each.as_json() for each in loaded],
        "tasks": by_task,
    }
    return Report(parts, content, code=FAILED if silent else 0)


def _told(
    each: Loaded, counted: Mapping[str, float], records: Sequence[Record]
) -> Iterator[RenderableType]:
    """What must be known to read a task's figures."""
    data, rows = each.data, f"{counted['rows']:.0f}"
    place = f"commit {data.revision}" if data.revision else f"digest {str(data.digest)[:12]}"
    yield (
        f"{each.name}: split {data.split} of {data.path}, {place}; task files {each.digest[:12]}; "
        f"answers {each.decoding.words}"
    )
    if each.note:
        yield f"{each.name}: {each.note}"
    if counted["errors"]:
        yield (
            f"{each.name}: {counted['errors']:.0f} of {rows} rows have no answer, and silence is "
            "scored"
        )
        for name, value in counted.items():
            if name.endswith("_answered"):
                metric = name.removesuffix("_answered")
                yield f"  {metric} is {value:.4f} on the rows that have one"
        reasons = Counter(record.error for record in records if record.error).most_common()
        for reason, count in reasons[:SHOWN_REASONS]:
            yield f"  {count} x {reason}"
    if counted["moved"]:
        yield (
            f"{each.name}: {counted['moved']:.0f} of {rows} rows have text before the image; a "
            "bundle reads it after the image"
        )
    if counted["cut"]:
        yield (
            f"{each.name}: {counted['cut']:.0f} of {rows} answers end where the bundle's decoder "
            "has no more positions"
        )
    if each.decoding.without:
        yield f"{each.name}: not followed: {', '.join(each.decoding.without)}"
