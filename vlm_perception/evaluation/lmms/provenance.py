# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a figure of lmms-eval's belongs to: the task's files, and the data set as it was read.

The versions that its tasks carry say neither: most are 0.0 or missing.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.errors import VlmPerceptionError

BUILDERS = ("arrow", "csv", "imagefolder", "json", "pandas", "parquet", "text", "webdataset")
"""What `datasets` reads files with, where a task names those and no data set."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class ProvenanceError(VlmPerceptionError):
    """It cannot be said what was evaluated; the message says why and what to do."""


@dataclass(frozen=True)
class DataSet:
    """A split of a data set, as it was read."""

    path: str
    """A place on the Hugging Face hub or on this machine, or what reads the files."""
    name: str | None
    """The configuration of the set."""
    split: str
    revision: str | None
    """The hub's commit; None: the set lies on this machine."""
    digest: str | None
    """SHA-256 of the names and contents of the files; None: the set is the hub's."""

    @property
    def version(self) -> str:
        """The revision or the digest."""
        return self.revision or self.digest or ""


def data_set(
    path: str,
    name: str | None,
    split: str | None,
    settings: Mapping[str, Any],
    read: Iterable[str],
) -> DataSet:
    """Say what a task has read.

    Args:
        path: `dataset_path` of the task.
        name: its `dataset_name`.
        split: the one that is evaluated.
        settings: its `dataset_kwargs`.
        read: files that `datasets` has made of what it downloaded, below a folder that has the
            commit as its name.

    Raises:
        ProvenanceError: it has no split, is neither on this machine nor a commit of the hub's, or
            is only partly so.
    """
    if not split:
        raise ProvenanceError(f"its data set {path} has no split to evaluate; name a test_split")
    if Path(path).exists():
        return DataSet(path, name, split, None, files_digest(Path(path)))
    if path in BUILDERS:
        files = list(_named(settings.get("data_files"))) + list(_named(settings.get("data_dir")))
        return DataSet(path, name, split, None, files_digest(*map(Path, files)))
    commits = [set(filter(COMMIT.fullmatch, Path(file).parts)) for file in read]
    if COMMIT.fullmatch(pinned := str(settings.get("revision"))):
        commits = [{pinned}]
    if len(known := set().union(*commits)) != 1 or not all(commits):
        raise ProvenanceError(
            f"no commit of its data set {path} can be told, so that nobody could repeat the "
            "figure; give a copy of the task with dataset_kwargs: {revision: COMMIT}, or with "
            "dataset_path: a folder on this machine (--include-path)"
        )
    return DataSet(path, name, split, known.pop(), None)


def _named(files: Any) -> Iterator[str]:
    """Files and folders of `data_files` or `data_dir`, patterns resolved.

    Raises:
        ProvenanceError: one is not on this machine.
    """
    if isinstance(files, str):
        found = sorted(glob.glob(files, recursive=True))  # noqa: PTH207 - it may be absolute
        if not found:
            raise ProvenanceError(f"its file {files} is not on this machine; name files that are")
        yield from found
    elif files is not None:
        for part in files.values() if isinstance(files, Mapping) else files:
            yield from _named(part)


def files_digest(*places: Path) -> str:
    """SHA-256 of the names and contents of files, and of those in folders.

    Raises:
        ProvenanceError: there is none.
    """
    digest, count = hashlib.sha256(), 0
    for place in places:
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file():
                count += 1
                shown = file.relative_to(place).as_posix() if place.is_dir() else file.name
                digest.update(f"{shown}\0{file_sha256(file)}\n".encode())
    if not count:
        raise ProvenanceError(f"no file is in {', '.join(map(str, places)) or 'its data set'}")
    return digest.hexdigest()


def task_digest(task: Path) -> str:
    """SHA-256 of a task's YAML file, of those that it includes, and of the Python files they name.

    Args:
        task: the YAML file.

    Raises:
        ProvenanceError: a file is missing or no YAML.
    """
    # By names alone: the same files may lie elsewhere.
    files = {(each.name, file_sha256(each)) for each in _task_files(task.resolve(), frozenset())}
    lines = (f"{name}\0{content}\n" for name, content in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def members(group: Path) -> list[str]:
    """Tasks that a group's YAML file names.

    Raises:
        ProvenanceError: the file cannot be read, or it changes settings of its tasks.
    """
    tasks = _read(group)[0].get("task", [])
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise ProvenanceError(f"{group} has settings of its own for its tasks; name those instead")
    return tasks


def _task_files(file: Path, above: frozenset[Path]) -> set[Path]:
    if file in above:
        raise ProvenanceError(f"{file} includes itself")
    content, functions = _read(file)
    modules = {file.parent / f"{function.rpartition('.')[0]}.py" for function in functions}
    # Others are modules of a package, which has a version.
    files = {file, *(module.resolve() for module in modules if module.is_file())}
    included = content.get("include") or []
    for name in [included] if isinstance(included, str) else included:
        part = Path(name) if Path(name).is_file() else file.parent / name
        files |= _task_files(part.resolve(), above | {file})
    return files


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Content of a YAML file, and the functions that it names; nothing of it is run."""
    functions: list[str] = []

    class Loader(yaml.SafeLoader):
        """Keeps the names that follow `!function`."""

    def keep(loader: yaml.SafeLoader, node: yaml.Node) -> str:
        functions.append(str(node.value))
        return str(node.value)

    Loader.add_constructor("!function", keep)
    try:
        content = Loader(file.read_bytes()).get_single_data()
    except (OSError, yaml.YAMLError) as error:
        raise ProvenanceError(f"{file} cannot be read as YAML: {error}") from error
    return (content if isinstance(content, dict) else {}), functions
