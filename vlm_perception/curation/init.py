# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`curate init`: a recipe to start from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from vlm_perception.curation.recipe import CurationError
from vlm_perception.curation.sources.guess import source_lines
from vlm_perception.datasets.final_set import RECIPE
from vlm_perception.outputs.durable import write_bytes

EXAMPLE = "  - {kind: folder, path: ../photos}"
"""What stands for sources where none is named."""


def init(folder: Path, sources: Sequence[str] = ()) -> Path:
    """Write a recipe to start from.

    Args:
        folder: for the set.
        sources: paths of images, of any kind; none of them: the recipe has an example.

    Raises:
        CurationError: there is one, or it is not plain what a source is.
        OSError: it cannot be written.
    """
    file = folder / RECIPE
    if os.path.lexists(file):
        raise CurationError(f"{file} exists; edit it, or choose another folder")
    template = (files(__package__) / "templates" / RECIPE).read_text(encoding="utf-8")
    text = Template(template).substitute(sources=source_lines(folder, sources) or EXAMPLE)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(file, text.encode())
    return file
