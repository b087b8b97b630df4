# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks of lmms-eval, loaded and looked through before the long work."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmms_eval.api.task import Task
from lmms_eval.tasks import TaskManager, get_task_dict
from tenacity import RetryError

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.lmms.decoding import Decoding, DecodingError, read_decoding
from vlm_perception.evaluation.lmms.judges import judge_of
from vlm_perception.evaluation.lmms.plugin import MODEL
from vlm_perception.evaluation.lmms.provenance import (
    DataSet,
    ProvenanceError,
    data_set,
    members,
    task_digest,
)

SUGGESTIONS = 3
NOTES = {
    "pope_process_results": "it wants exactly yes or no, which is another metric than the "
    "published one, and its yes ratio is that of the truth; `vlm-perception evaluate pope` gives "
    "the published figures"
}
"""By the function that scores: what must be known to read the figures."""


class TasksError(VlmPerceptionError):
    """Tasks cannot be evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class Loaded:
    """A task with its data."""

    name: str
    task: Task
    digest: str
    """Of its files."""
    data: DataSet
    decoding: Decoding

    @property
    def note(self) -> str:
        """What must be known to read its figures; mostly nothing."""
        return NOTES.get(getattr(self.task.config.process_results, "__name__", ""), "")

    def aggregate(self, metric: str, values: Sequence[Any]) -> Any:
        """The figure of some rows, as lmms-eval makes it."""
        function = self.task.aggregation()[metric]
        if "args" in inspect.signature(function).parameters:
            return function(list(values), args=self.task.args)
        return function(list(values))

    def as_json(self) -> dict[str, object]:
        """For the report."""
        return {
            "name": self.name,
            "version": self.data.version,
            "split": self.data.split,
            "dataset_path": self.data.path,
            "dataset_name": self.data.name,
            "revision": self.data.revision,
            "task_digest": self.digest,
            # Where a task has no version, this is lmms-eval's word for that.
            "task_version": None if self.task.VERSION == "Yaml" else str(self.task.VERSION),
            "decoding": self.decoding.words,
            "not_followed": list(self.decoding.without),
            "note": self.note,
        }


def settings_of_run(folder: Path) -> SimpleNamespace:
    """What tasks and lmms-eval look up among the options of its own command line.

    Args:
        folder: where tasks write files for submission.
    """
    return SimpleNamespace(
        output_path=str(folder),
        process_with_media=False,
        reasoning_tags=None,
        agentic_trace_mode="basic",
    )


def load(names: Sequence[str], include: Path | None) -> tuple[list[Loaded], TaskManager]:
    """Load tasks and their data.

    Args:
        names: of tasks, of groups and of tags.
        include: a folder with further tasks, which come before those of the same name.

    Raises:
        TasksError: there is no such task, or it cannot be put to a bundle.
        ProvenanceError: a task's data cannot be named.
        DecodingError: a task wants answers that a bundle cannot write.
    """
    if include is not None and not include.is_dir():
        raise TasksError(f"{include} is no folder; give one with task files")
    manager = _manager(include)
    wanted = dict.fromkeys(task for name in names for task in _expanded(manager, name))
    if not wanted:
        raise TasksError("no task is named; give some with --tasks")
    return [_loaded(manager, name) for name in wanted], manager


def _manager(include: Path | None) -> TaskManager:
    try:
        return TaskManager(include_path=str(include) if include else None, model_name=MODEL)
    # Whatever is wrong with one of the user's files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TasksError(f"the task files in {include} cannot be read: {reason}") from error


def require_no_judge(loaded: Loaded) -> None:
    """Refuse a task that asks a server to judge its answers.

    The task's settings of the run must be set, and the folder that they name is written into.

    Raises:
        TasksError: it does.
    """
    task = loaded.task

    def score(answer: str) -> None:
        # Not lmms-eval's own way there, which tries five times.
        process = type(task).process_results.__wrapped__
        parts = process(task, task.eval_docs_no_media[0], [answer])
        for metric in parts.keys() & task.aggregation().keys():
            loaded.aggregate(metric, [parts[metric]])

    if judge := judge_of(score):
        raise TasksError(judged(loaded.name, judge))


def judged(name: str, judge: str) -> str:
    """Why a task is refused that asks a server to judge."""
    return (
        f"task {name} asks {judge} to judge answers, which costs money and changes with that "
        "server; take a task that judges by rules, such as mmbench_en_dev_static for "
        "mmbench_en_dev, or a judge of your own with `vlm-perception evaluate judge`"
    )


def _expanded(manager: TaskManager, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    entry: Mapping[str, Any] | None = manager.task_index.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, manager.all_tasks, SUGGESTIONS)
        hint = f"; is {' or '.join(close)} meant?" if close else ""
        raise TasksError(f"lmms-eval has no task {name}{hint or '; `lmms-eval tasks` lists them'}")
    if name in above:
        raise TasksError(f"the group {name} contains itself")
    if entry["type"] == "task":
        yield name
    elif entry["type"] in ("tag", "group"):
        tasks = entry["task"] if entry["task"] != -1 else members(Path(entry["yaml_path"]))
        for task in tasks:
            yield from _expanded(manager, task, (*above, name))
    else:
        raise TasksError(
            f"task {name} is a Python class of its own, which cannot be put to a bundle"
        )


def _loaded(manager: TaskManager, name: str) -> Loaded:
    digest = task_digest(Path(manager.task_index[name]["yaml_path"]))
    try:
        task = get_task_dict([name], manager, "chat")[name]
    # Code of the task's, and whatever a data set may bring.
    except Exception as error:
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise TasksError(f"task {name} cannot be loaded ({reason})") from error
    if task.OUTPUT_TYPE != "generate_until":
        raise TasksError(
            f"task {name} is of the kind {task.OUTPUT_TYPE}, and a bundle answers generate_until"
        )
    config = task.config
    split = config.test_split or config.validation_split
    try:
        data = data_set(
            task.DATASET_PATH,
            config.dataset_name,
            split,
            config.dataset_kwargs or {},
            [file["filename"] for file in task.dataset[split].cache_files] if split else [],
        )
        decoding = read_decoding(config.generation_kwargs or {})
    except (ProvenanceError, DecodingError) as error:
        raise type(error)(f"task {name}: {error}") from error
    return Loaded(name, task, digest, data, decoding)
