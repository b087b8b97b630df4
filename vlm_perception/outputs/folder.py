# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder for the results of a run, which are written aside and take their places when whole.

New files are written to a folder of their own. When all are complete, their list is stored and each
is moved; if a run is killed meanwhile, the next one finishes that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from vlm_perception.outputs import work
from vlm_perception.outputs.apart import keep_apart
from vlm_perception.outputs.mark import MARK, Mark, OutputError, read_mark, stamp, write_mark

UNFINISHED = "unfinished"


class ResultsFolder:
    """Results of one verb in one folder, for one run at a time; a context manager.

    Within the context `work` is the folder to write into. `publish` moves its content into place;
    without it the old results stay, and the next run finds what was written.
    """

    def __init__(
        self, folder: Path, verb: str, names: Iterable[str], inputs: Iterable[Path] = ()
    ) -> None:
        """Check that no input is in danger; nothing is touched.

        Args:
            folder: for the results.
            verb: whose results they are.
            names: patterns of the results' paths within the folder.
            inputs: files and folders that the run reads.

        Raises:
            OutputError: an input is inside the folder, or the folder inside an input.
        """
        self.path = keep_apart(folder, inputs)
        self.work = self.path / UNFINISHED
        self.left_over = False
        """Whether a run that was interrupted has left something in `work`."""
        self.completed = False
        """Whether the results of the last run were put into place only now."""
        self._shown, self._verb, self._names = folder, verb, tuple(names)

    def __enter__(self) -> ResultsFolder:
        """Take the folder, complete what a killed run had begun, and open `work`.

        Raises:
            OutputError: the folder is in use, cannot be written, or contains other files under the
                names of results.
        """
        self._lock = work.taken(self.path)
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
            work.remove(self.work)
            if not any(self.path.iterdir()):
                self.path.rmdir()
        os.close(self._lock)

    def clear(self) -> None:
        """Remove what an interrupted run has left in `work`."""
        work.remove(self.work)
        work.begin(self.work, self._verb)
        self.left_over = False

    def publish(self) -> None:
        """Put the results in `work` into their places; an earlier run's and the rest of it go.

        Raises:
            OutputError: another file is in the way; nothing is changed.
            OSError: a file cannot be moved; the next run completes it.
        """
        files = {
            path.relative_to(self.work).as_posix(): stamp(path, self._verb)
            for pattern in self._names
            for path in sorted(self.work.glob(pattern))
            if not work.is_plain(path)
        }
        self._refuse_foreign(files)
        whole = work.Unfinished(verb=self._verb, whole=True, files=files)
        write_mark(self.work, whole)
        self._put_into_place(whole)

    def _prepare(self) -> None:
        unfinished = work.left_over(self.work, self._verb)
        if unfinished is not None and unfinished.whole:
            self._put_into_place(unfinished)
            self.completed, unfinished = True, None
        found = (path for pattern in self._names for path in self.path.glob(pattern))
        found = (path for path in found if not work.is_plain(path))
        self._refuse_foreign([*self._names, *(str(path.relative_to(self.path)) for path in found)])
        if unfinished is None:
            work.begin(self.work, self._verb)
        else:
            self.left_over = True

    def _put_into_place(self, new: work.Unfinished) -> None:
        waiting = [name for name in new.files if (self.work / name).exists()]
        self._refuse_foreign(waiting)
        for name in waiting:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).replace(self.path / name)
        old = read_mark(self.path, Mark) or Mark()
        of_others = {name: each for name, each in old.files.items() if each[0] != self._verb}
        for name in old.files.keys() - new.files.keys() - of_others.keys():
            if self._is_ours(name, old):
                (self.path / name).unlink()
                _remove_empty((self.path / name).parent, self.path)
        write_mark(self.path, old.model_copy(update={"files": {**of_others, **new.files}}))
        work.remove(self.work)

    def _refuse_foreign(self, names: Iterable[str]) -> None:
        """Refuse to overwrite anything that no run of this verb has written."""
        mark = read_mark(self.path, Mark) or Mark()
        for name in names:
            path = self.path / name
            blocked = [each for each in path.parents if self.path in each.parents]
            blocked = [
                each for each in blocked if os.path.lexists(each) and not work.is_plain(each)
            ]
            if blocked or (os.path.lexists(path) and not self._is_ours(name, mark)):
                raise OutputError(
                    f"{self._shown / name} was not written by `{self._verb}`, or was changed "
                    "since; move it away or choose another --out"
                )

    def _is_ours(self, name: str, mark: Mark) -> bool:
        path = self.path / name
        inside = all(work.is_plain(each) for each in path.parents if self.path in each.parents)
        return inside and path.is_file() and mark.files.get(name) == stamp(path, self._verb)


def _remove_empty(folder: Path, top: Path) -> None:
    if folder != top and not any(folder.iterdir()):
        folder.rmdir()
