# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder for results: they are written aside, take their places when whole, and spare the rest.

A mark in the folder lists the files that a run has put there, each with its size and time. Only
these are ever replaced or removed, and only while they are as they were left: whatever else lies in
the folder, or was changed since, belongs to somebody. What is being written lies in a folder of its
own until it is whole. Then the list of the new files is written down, and each is moved; a run
that is killed meanwhile is completed by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

MARK = ".vlm_perception.json"
UNFINISHED = "unfinished"


class OutputError(ValueError):
    """Results cannot be written where they were asked for; the text says what to do."""


class Mark(BaseModel):
    """What a run has written into a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verb: str
    whole: bool = True
    """False while the run goes on."""
    files: dict[str, tuple[int, int]] = {}
    """Path within the folder: size in bytes, time of its last change in nanoseconds."""

    @field_validator("files")
    @classmethod
    def _within(cls, files: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{name} lies outside the folder")
        return files


class ResultsFolder:
    """Results of one verb in one folder, for one run at a time; a context manager.

    Within the context `work` is the folder to write into. `publish` puts what lies there into its
    place; without it the old results stay, and what was written remains for the next run to find.
    """

    def __init__(
        self, folder: Path, verb: str, names: Iterable[str], inputs: Iterable[Path] = ()
    ) -> None:
        """Check that no input is in danger; nothing is touched.

        Args:
            folder: where the results shall lie.
            verb: whose results they are.
            names: patterns of the results' paths within the folder.
            inputs: files and folders that the run reads.

        Raises:
            OutputError: an input lies in the folder, or the folder in an input.
        """
        self.path = _resolved(folder)
        self.work = self.path / UNFINISHED
        self.left_over = False
        """Whether a run that was interrupted has left something in `work`."""
        self.completed = False
        """Whether the results of the last run were put into place only now."""
        self._shown, self._verb, self._names = folder, verb, tuple(names)
        for each in inputs:
            self._keep_apart(each)

    def __enter__(self) -> ResultsFolder:
        """Take the folder, complete what a killed run had begun, and open `work`.

        Raises:
            OutputError: the folder is in use, cannot be written, or holds somebody's files under
                the names of results.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path, self._shown)
        except OSError as error:
            raise OutputError(
                f"{self._shown} cannot take results ({error.strerror}); choose another --out"
            ) from error
        try:
            self._prepare()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the folder to others; it goes when it holds nothing."""
        if self.work.is_dir() and {each.name for each in self.work.iterdir()} == {MARK}:
            shutil.rmtree(self.work)
            if not any(self.path.iterdir()):
                self.path.rmdir()
        os.close(self._lock)

    def clear(self) -> None:
        """Remove what an interrupted run has left in `work`."""
        shutil.rmtree(self.work)
        self._begin()
        self.left_over = False

    def publish(self) -> None:
        """Put what lies in `work` into its place, and remove what an earlier run had left there.

        Raises:
            OutputError: somebody's file lies in the way; all stays as it is.
            OSError: a file cannot be moved; the next run completes it.
        """
        files = {
            path.relative_to(self.work).as_posix(): _stamp(path)
            for path in sorted(self.work.rglob("*"))
            if path.is_file() and path.name != MARK
        }
        self._refuse_foreign(files)
        _write_mark(self.work, Mark(verb=self._verb, files=files))
        self._put_into_place()

    def _prepare(self) -> None:
        unfinished = self._unfinished()
        if unfinished is not None and unfinished.whole:
            self._put_into_place()
            self.completed, unfinished = True, None
        found = [path for pattern in self._names for path in self.path.glob(pattern)]
        self._refuse_foreign([*self._names, *(str(path.relative_to(self.path)) for path in found)])
        if unfinished is None:
            self._begin()
        else:
            self.left_over = True

    def _unfinished(self) -> Mark | None:
        """The mark of the work that an interrupted run has left."""
        if not os.path.lexists(self.work):
            return None
        mark = _read_mark(self.work) if _plain(self.work) else None
        if mark is None and not _is_bare(self.work):
            raise OutputError(
                f"{self._shown / UNFINISHED} was not made by this program; rename it or choose "
                "another --out"
            )
        if mark is not None and mark.verb != self._verb:
            raise OutputError(
                f"{self._shown / UNFINISHED} is what an interrupted `{mark.verb}` has left; choose "
                "another --out"
            )
        if mark is None:
            shutil.rmtree(self.work)
        return mark

    def _begin(self) -> None:
        try:
            self.work.mkdir()
            _write_mark(self.work, Mark(verb=self._verb, whole=False))
        except OSError as error:
            raise OutputError(
                f"{self._shown} cannot take results ({error.strerror}); choose another --out"
            ) from error

    def _put_into_place(self) -> None:
        new, old = _read_mark(self.work), _read_mark(self.path)
        assert new is not None
        waiting = [name for name in new.files if (self.work / name).exists()]
        self._refuse_foreign(waiting)
        for name in waiting:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).replace(self.path / name)
        for name in old.files if old is not None else ():
            if name not in new.files and self._is_ours(name, old):
                (self.path / name).unlink()
                _remove_empty((self.path / name).parent, self.path)
        (self.work / MARK).replace(self.path / MARK)
        shutil.rmtree(self.work)

    def _refuse_foreign(self, names: Iterable[str]) -> None:
        """Refuse to write where something lies that no run of this verb has left there."""
        mark = _read_mark(self.path)
        for name in names:
            path = self.path / name
            blocked = [each for each in path.parents if self.path in each.parents]
            blocked = [each for each in blocked if os.path.lexists(each) and not _plain(each)]
            if blocked or (os.path.lexists(path) and not self._is_ours(name, mark)):
                raise OutputError(
                    f"{self._shown / name} was not left there by `{self._verb}`, or was changed "
                    "since; move it away or choose another --out"
                )

    def _is_ours(self, name: str, mark: Mark | None) -> bool:
        path = self.path / name
        if mark is None or mark.verb != self._verb or name not in mark.files:
            return False
        inside = all(_plain(each) for each in path.parents if self.path in each.parents)
        return inside and path.exists() and _stamp(path) == mark.files[name]

    def _keep_apart(self, given: Path) -> None:
        if not given.exists():
            return
        source = _resolved(given)
        if _holds(self.path, source):
            raise OutputError(
                f"{given} lies in {self._shown}, the folder for the results; choose another --out"
            )
        if _holds(source, self.path):
            raise OutputError(
                f"the results would lie in {given} itself, which is read; choose another --out"
            )


def note_rewritten(file: Path) -> None:
    """Let a result that this program has written anew count as one of its folder's results."""
    mark = _read_mark(file.parent)
    if mark is not None and file.name in mark.files:
        files = {**mark.files, file.name: _stamp(file)}
        _write_mark(file.parent, mark.model_copy(update={"files": files}))


def is_result(file: Path) -> bool:
    """Whether a file is as a run of this program has left it."""
    mark = _read_mark(file.parent)
    return mark is not None and file.exists() and mark.files.get(file.name) == _stamp(file)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path} leads in a circle of symbolic links") from error


def _holds(folder: Path, path: Path) -> bool:
    """Whether a path is the folder or lies in it, as the file system sees it."""
    return folder.is_dir() and any(
        each.exists() and each.samefile(folder) for each in (path, *path.parents)
    )


def _locked(folder: Path, shown: Path) -> int:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            f"another run is writing into {shown}; wait for its end or choose another --out"
        ) from error
    except OSError:
        pass  # Some network file systems have no locks.
    return handle


def _plain(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _is_bare(folder: Path) -> bool:
    """Whether it is a folder without files, as a run leaves it that is killed at its ends."""
    files = (each for each in folder.rglob("*") if not _plain(each))
    return _plain(folder) and all(each == folder / f"{MARK}.new" for each in files)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_size, status.st_mtime_ns


def _remove_empty(folder: Path, top: Path) -> None:
    if folder != top and not any(folder.iterdir()):
        folder.rmdir()


def _read_mark(folder: Path) -> Mark | None:
    """The mark of a folder; one that is damaged claims nothing."""
    try:
        return Mark.model_validate_json((folder / MARK).read_bytes())
    except (OSError, ValidationError):
        return None


def _write_mark(folder: Path, mark: Mark) -> None:
    temporary = folder / f"{MARK}.new"
    temporary.write_text(mark.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / MARK)
