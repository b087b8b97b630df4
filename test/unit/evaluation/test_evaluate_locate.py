# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""locate and evaluate locate: what is asked means what it says, and one small run of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.assets import BUILDERS, NAMED
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.datasets.roadworld.truth import ObjectTruth, SceneTruth
from vlm_perception.evaluation.locate.phrases import COLOUR, LABEL, PLACE, ask


def car(x: int, colour: str, share: float, distance: float) -> ObjectTruth:
    return ObjectTruth("car", (x, 300, 100, 100), share, 1.0, distance, 0.0, colour)


def test_a_phrase_means_the_objects_that_its_words_say() -> None:
    red, blue, other = car(0, "red", 0.01, 30), car(600, "blue", 0.02, 9), car(900, "", 0.03, 20)
    speck = car(400, "red", 0.0001, 90)
    truth = SceneTruth((red, blue, other, speck), {}, {})
    means = {
        "the car": {red, blue, other},
        "the red car": {red},
        "the blue car": {blue},
        "the car on the left": {red},
        "the car on the right": {blue, other},
        "the car in the middle": {blue},
        "the leftmost car": {red},
        "the rightmost car": {other},
        "the nearest car": {blue},
        "the farthest car": {red},
        "the largest car": {other},
        "the smallest car": {red},
    }
    seen = set()
    for seed in range(40):
        for one in ask(truth, 1280, np.random.default_rng(seed)):
            if one.label == "car":
                assert set(one.meant) == means[one.phrase], one.phrase
                assert one.rivals == (one.kind in (COLOUR, PLACE))
                seen.add(one.phrase)
            else:
                assert not one.meant
    assert seen == set(means)


@pytest.mark.parametrize("label", ["car", "truck", "bus", "motorcycle", "pedestrian", "barrier"])
def test_an_object_has_the_colour_that_it_is_known_by(label: str) -> None:
    known = set()
    for seed in range(40):
        mesh = BUILDERS[label](np.random.default_rng(seed))
        known.add(mesh.colour)
        shades = np.array([shade for shade, name in NAMED.items() if name == mesh.colour])
        if mesh.colour:
            # Of its paint each channel differs by 12 at most.
            faces = np.array([face.colour for face in mesh.faces])
            away = np.abs(faces[:, np.newaxis] - shades).max(axis=2).min(axis=1)
            assert (away <= 12).any()
    assert len(known - {""}) >= 2


@pytest.mark.slow
def test_evaluate_locate_beats_its_baselines(tmp_path: Path) -> None:
    file = tmp_path / "locate.json"
    arguments = ["evaluate", "locate", "--scenes", "8", "--json", str(file)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    rows = {(row["method"], row["phrase_kind"], row["size"]): row for row in figures["rows"]}
    patch, regions, whole = (
        rows[name, LABEL, "medium and large"] for name in ("patch", "regions", "whole image")
    )
    assert patch["pointing"] > whole["pointing"]
    assert patch["recall_iou50"] > regions["recall_iou50"] > whole["recall_iou50"]
    assert {"phrases", "pointing", "recall_iou30", "recall_iou50", "ms"} <= set(patch)
    # What nothing was asked or found for is unknown, not bad.
    empty = [row for row in figures["rows"] if not row["phrases"]]
    assert empty and all(row["precision_iou50"] == row["pointing"] is None for row in empty)


def test_the_command_finds_draws_and_says_what_is_wrong(tmp_path: Path) -> None:
    # A car ahead, a motorcycle, a cyclist and two signs.
    (street,) = Streets(range(10_000_001, 10_000_002))
    image, drawn, file = (tmp_path / name for name in ("street.png", "drawn.png", "boxes.json"))
    Image.fromarray(street.image).save(image)
    phrases = ["the largest motorcycle", "cone"]
    more = ["--out", str(drawn), "--json", str(file)]
    result = CliRunner().invoke(app, ["locate", str(image), *phrases, *more])
    assert result.exit_code == 0 and "not found" in result.output, result.output
    found = {each["phrase"]: each["boxes"] for each in json.loads(file.read_text())["phrases"]}
    (box,), none = (found[phrase] for phrase in phrases)
    row, column = int(box["y"] + box["height"] / 2), int(box["x"] + box["width"] / 2)
    identity = int(street.rendered.ids[row, column])
    assert street.rendered.objects[identity - 1].label == "motorcycle" and none == []
    assert (np.asarray(Image.open(drawn)) != street.image).any()
    for wrong, message in (
        ([str(image), " "], "the phrase is empty"),
        ([str(image), "x" * 1000], "1000 characters"),
        ([str(tmp_path / "none.png"), "car"], "cannot be read"),
        ([str(image), "car", "--out", str(image)], "was not written by this program"),
        ([str(image), "car", "--method", "guess"], "is not one of patch, model"),
    ):
        result = CliRunner().invoke(app, ["locate", *wrong])
        assert result.exit_code == 2 and message in result.output.replace("\n", " "), result.output
