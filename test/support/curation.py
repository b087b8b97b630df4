# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recipes and images of small curated sets, and the command that makes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from vlm_perception.cli.curate import app


def curate(*words: object, code: int = 0) -> str:
    """Run `vlm-perception curate` with these words; returns what it says, on one line."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def write_recipe(folder: Path, **recipe: Any) -> Path:
    """Write a recipe into a folder, which is made if it is not there; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def prepare(folder: Path, *sources: dict[str, Any], **filters: Any) -> Path:
    """Write a recipe that has sources and filters; returns the folder."""
    return write_recipe(folder, sources=list(sources), filter=filters)


def lines(folder: Path, stage: str, status: str) -> list[dict[str, Any]]:
    """The records of a stage."""
    return [json.loads(line) for line in (folder / stage / f"{status}.jsonl").open()]


def picture(seed: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """An image of soft colours, (height, width, 3); those of two seeds are no copies."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8)


def saved(image: NDArray[Any] | PIL.Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image as a file."""
    stream = io.BytesIO()
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def tar_of(file: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of files with these names and contents."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
