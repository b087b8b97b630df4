# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of answered images is a data set, and what is wrong with it is named in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.datasets.answered_images import ANSWERS_FILE, AnsweredImages, AnswersError
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, read_captions
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE, read_objects
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS

WET = QuestionSpec(name="wet", question="is the road wet", choices=("no", "yes"))
GOOD = {"image": "a.png", "answers": {"wet": "yes"}}


def answered(folder: Path, lines: list[object]) -> Path:
    Image.new("RGB", (32, 18), (200, 0, 0)).save(folder / "a.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / ANSWERS_FILE).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([GOOD | {"answers": {"snow": "yes"}}], "line 1: there is no question 'snow'"),
        ([GOOD, GOOD | {"answers": {"wet": "very"}}], "line 2: 'very' is not a choice of 'wet'"),
        ([GOOD | {"image": "b.png"}], r"line 1: there is no image .*b\.png"),
        (["{"], "line 1 is not an answered image"),
        (["[]"], "line 1 is not an answered image"),
        ([{"image": 3, "answers": {}}], "line 1 is not an answered image"),
        ([{"image": "a.png", "answers": "wet"}], "line 1 is not an answered image"),
        ([{"image": "a.png", "answers": {"wet": ["yes"]}}], "is not a choice of 'wet'"),
    ],
)
def test_bad_answers_are_named(tmp_path: Path, lines: list[object], sentence: str) -> None:
    with pytest.raises(AnswersError, match=sentence):
        AnsweredImages(answered(tmp_path, lines), [WET])


def test_a_folder_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match=r"answers\.jsonl cannot be read"):
        AnsweredImages(tmp_path, [WET])


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no image")
    damaged = {"image": "b.png", "answers": {"wet": "no"}}
    images = AnsweredImages(answered(tmp_path, [GOOD, damaged, "", damaged, GOOD]), [WET])
    assert (len(images), images.left_out, list(images.broken)) == (2, 2, [tmp_path / "b.png"])
    assert images.counts() == {"wet": 2}
    for sample in (*images, *images):
        assert sample.image.shape == (18, 32, 3)
        assert np.all(sample.image == (200, 0, 0))
        assert (sample.choices([WET]), sample.provenance) == ([1], str(tmp_path / "a.png"))


def test_the_road_world_is_the_same_from_its_seeds_and_from_files(tmp_path: Path) -> None:
    streets = Streets(range(5_000_000, 5_000_003), (64, 36))
    write_images(tmp_path, len(streets) - 1, (64, 36))
    for file, lost in ((ANSWERS_FILE, 9), (CAPTIONS_FILE, 1)):
        os.truncate(tmp_path / file, (tmp_path / file).stat().st_size - lost)
    write_images(tmp_path, len(streets), (64, 36))
    images = AnsweredImages(tmp_path, streets.questions)
    captions, objects = (
        read_captions(tmp_path / CAPTIONS_FILE),
        read_objects(tmp_path / OBJECTS_FILE),
    )
    assert len(images) == len(streets)
    for file, said, seen_in, street in zip(images, captions, objects, streets, strict=True):
        assert said == (Path(file.provenance).name, street.captions)
        assert seen_in == (said[0], tuple(x for x in street.labels if x in OBJECT_LABELS))
        assert file.answers == street.answers
        assert np.abs(file.image.astype(int) - street.image).mean() < 10, "JPEG alone"
        seen = [label for label, here in zip(LABELS, street.present(LABELS), strict=True) if here]
        assert tuple(seen) == street.labels == street.truth.labels
        chosen = zip(streets.questions, street.choices(streets.questions), strict=True)
        assert {q.name: q.choices[at] for q, at in chosen} == street.answers
        assert street.captions and {caption.language for caption in street.captions} == {"en"}
