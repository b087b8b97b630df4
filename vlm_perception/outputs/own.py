# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that is a verb's alone, for what one of its runs leaves to the next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_perception.outputs import work
from vlm_perception.outputs.apart import keep_apart
from vlm_perception.outputs.mark import Mark, OutputError, read_mark, write_mark


@contextmanager
def own_folder(folder: Path, verb: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Take a folder for one run; a verb may replace anything in its own.

    Args:
        folder: its path; it is created, and marked as the verb's.
        verb: whose it is.
        inputs: files and folders that the run reads.

    Raises:
        OutputError: it holds files and is not the verb's, an input is in danger, another run has
            taken it, or it cannot be written.
    """
    place = keep_apart(folder, inputs)
    handle = work.taken(place)
    try:
        mark = read_mark(place, Mark) or Mark()
        if mark.owner != verb and not work.is_bare(place):
            raise OutputError(
                f"{folder} contains files and was not made by `{verb}`; choose another --out"
            )
        try:
            write_mark(place, mark.model_copy(update={"owner": verb}))
        except OSError as error:
            raise work.cannot(folder, error) from error
        yield place
    finally:
        os.close(handle)
