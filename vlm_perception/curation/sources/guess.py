# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which kind of source a path is, judging by names alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from vlm_perception.curation.recipe import CurationError
from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.media.image_folder import SUFFIXES
from vlm_perception.replay.harvest import METADATA
from vlm_perception.replay.recordings.source import is_bag

TAR = ".tar"
_LATER = "name it in recipe.yaml, whose comments show every kind of source"


def source_lines(folder: Path, paths: Sequence[str]) -> str:
    """Entries of a recipe for paths.

    Args:
        folder: of the recipe, which they are written relative to.
        paths: relative to the working directory, or absolute.

    Raises:
        CurationError: a path does not exist, or its kind is not plain.
    """
    lines = []
    for path in paths:
        known = {"kind": _kind(Path(path)), "path": _relative(Path(path), folder)}
        inner = ", ".join(
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in known.items()
        )
        lines.append(f"  - {{{inner}}}")
    return "\n".join(lines)


def _relative(path: Path, folder: Path) -> str:
    """A path from a folder that may be a link, as whoever opens it there goes."""
    try:
        written = os.path.relpath(path.parent.resolve() / path.name, folder.resolve())
        written.encode()
    except UnicodeEncodeError as error:
        raise CurationError(
            f"{str(path)!r} is no UTF-8 and cannot stand in a recipe; rename it"
        ) from error
    return written


def _kind(path: Path) -> str:
    if path.suffix == TAR:
        return "webdataset"
    if not path.exists():
        raise CurationError(f"the source {path} does not exist; correct its path")
    if is_bag(path):
        return "recording"
    if path.is_dir():
        known = {"captions": CAPTIONS_FILE, "harvest": METADATA}
        return next((kind for kind, file in known.items() if (path / file).is_file()), "folder")
    if path.suffix.lower() in (".json", *SUFFIXES):
        raise CurationError(f"{path} alone is no source; {_LATER}")
    return "recording"
