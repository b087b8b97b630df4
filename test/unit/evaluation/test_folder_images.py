# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Files of labels, and the images that they name: tried before the long work, faults are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_perception.common.json_lines import LONGEST_LINE, JsonLines
from vlm_perception.datasets.answered_images import AnswersError
from vlm_perception.evaluation.folder_images import FolderImages, FolderImagesError
from vlm_perception.evaluation.image_data import PlainFolder
from vlm_perception.media.image_errors import ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (8, 6), (200, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 6), (0, 200, 0)).save(tmp_path / "deep" / "b.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def test_each_image_is_there_once_however_it_is_spelt(folder: Path) -> None:
    images = FolderImages(
        PlainFolder(folder), ["deep/b.png", "a.png", "./a.png", "deep/../deep//b.png"]
    )
    assert list(images.names) == ["deep/b.png", "a.png"]
    assert np.all(images.read("deep/b.png") == (0, 200, 0))
    assert images.told() == ""
    labels = folder / "labels"
    labels.write_text("a")
    first = images.described(labels)
    assert (first["name"], first["split"]) == (folder.name, "labels")
    assert FolderImages(PlainFolder(folder), images.names).described(labels) == first
    fewer = FolderImages(PlainFolder(folder), ["deep/b.png"]).described(labels)
    Image.new("RGB", (8, 6), (200, 1, 0)).save(folder / "a.png")
    altered = FolderImages(PlainFolder(folder), images.names).described(labels)
    labels.write_text("b")
    told = images.described(labels)
    assert len({each["version"] for each in (first, fewer, altered, told)}) == 4


def test_an_image_that_was_replaced_since_it_was_tried_is_not_read(folder: Path) -> None:
    images = FolderImages(PlainFolder(folder), ["a.png", "deep/b.png"])
    (folder / "deep" / "b.png").replace(folder / "a.png")
    with pytest.raises(ImageError, match=r"a\.png was altered"):
        images.read("a.png")


def test_images_that_are_missing_or_broken_are_named_and_counted(folder: Path) -> None:
    names = ["a.png", "gone.png", "cut.png", "deep", "pipe.png", "nul\0.png", "more.png"]
    with pytest.raises(FolderImagesError, match="--skip-broken") as refused:
        FolderImages(PlainFolder(folder), names)
    images = FolderImages(PlainFolder(folder), names, skip_broken=True)
    assert list(images.names) == ["a.png"]
    assert list(images.broken) == names[1:]
    assert images.told().startswith("6 of 7 images are missing or broken: ")
    assert images.told().endswith("; and 1 more")
    assert all(name in images.told() for name in names[1:-1])
    assert images.told() in str(refused.value)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "no image of .* has a label"),
        (["gone.png", "cut.png"], "no image can be used: 2 of 2"),
        *(([name], "leads out") for name in ("/a.png", "../a.png", "deep/../../a.png", "", ".")),
        (["\ud800.png"], "is not valid UTF-8"),
    ],
)
def test_without_an_image_nothing_begins(folder: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(FolderImagesError, match=sentence):
        FolderImages(PlainFolder(folder), names, skip_broken=True)
    with pytest.raises(FolderImagesError, match="is no folder"):
        FolderImages(PlainFolder(folder / "a.png"), names, skip_broken=True)


def lines_of(folder: Path, content: bytes | None) -> JsonLines:
    if content is not None:
        (folder / "x.jsonl").write_bytes(content)
    return JsonLines(folder / "x.jsonl", "an answer", '{"a": 1}', AnswersError)


def test_lines_end_where_editors_end_them(tmp_path: Path) -> None:
    content = '\ufeff{"a": "\u2028"}\r\n\n{"a": 2}'.encode()
    places, objects = zip(*lines_of(tmp_path, content), strict=True)
    assert objects == ({"a": "\u2028"}, {"a": 2})
    assert [place.rpartition(", ")[2] for place in places] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    "line",
    [b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * LONGEST_LINE + b'"}'],
    ids=["list", "cut", "no text", "deep", "long"],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(AnswersError, match=r'line 2 is not an answer .*; write it as {"a": 1}'):
        list(lines_of(tmp_path, b'{"a": 2}\n' + line))


def test_a_file_of_lines_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match=r"x\.jsonl cannot be read \(No such file"):
        list(lines_of(tmp_path, None))
