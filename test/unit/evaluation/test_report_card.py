# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate report: one page that needs nothing else, with what the data allow, in fixed figures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.write_manifest import write_manifest_content
from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.evaluation.card import evaluate, plots, scenes
from vlm_perception.evaluation.card.exams import ExamError, read_exams
from vlm_perception.evaluation.card.page import STAGES, Examined, write_page
from vlm_perception.evaluation.comparison.bootstrap import Estimate
from vlm_perception.evaluation.cost.figures import TIMES
from vlm_perception.evaluation.hallucination.figures import SCALES
from vlm_perception.evaluation.machine_load import Load
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.report import Report

QUIET = Load(0.0, 1.0)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Complains about elements that are not closed, and keeps what the page asks for and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.feed(text)
        assert not self.open
        self.svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.asked += [given[key] or "" for key in ("src", "href", "xlink:href") if given.get(key)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with captions, objects and answers."""
    folder = tmp_path_factory.mktemp("card") / "streets"
    write_images(folder, 2, (320, 180))
    return folder


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with a temperature that makes one question's probabilities wrong."""
    folder = tmp_path_factory.mktemp("hot") / "hot"
    shutil.copytree(ModelBundle.load("roadworld-nano").path, folder)
    content = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))
    content.pop("digest")
    for question in content["questions"]:
        if question["name"] == "construction":
            question["temperature"] = 50.0
    write_manifest_content(folder, content)
    return folder


@pytest.fixture(autouse=True)
def cheap_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image costs is measured elsewhere, with its own tests."""
    cost = {"tokens_per_image": 51, **dict.fromkeys(TIMES, 4.0), "tower_ms": 0.0}
    cost["energy_j_per_image"] = None
    monkeypatch.setattr(
        evaluate.cost, "run", lambda *_, **__: Report([], {"cost": cost}, load=QUIET)
    )


def made(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["evaluate", "report", *map(str, arguments)], env={"COLUMNS": "250"}
    )


def numbers(content: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value


def test_one_page_with_all_that_the_data_allow(streets: Path, tmp_path: Path) -> None:
    result = made("--data", streets, "--out", tmp_path / "card", "--wording", "is there {}")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "card" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 400_000
    assert {asked for asked in page.asked if not asked.startswith("#")} == set()
    names = [name for name in page.ids if f"#{name}" in text]
    assert len(names) == len(set(names)) > 10, "plots do not take each other's parts"
    assert len(page.svgs) == 8
    for svg in page.svgs:
        ElementTree.fromstring(svg)
        assert "var(--soft)" in svg, "readable by day and by night"
    assert not re.search("#0[1-5]0[1-5]0[1-5]", text)

    content = json.loads((tmp_path / "card" / "report.json").read_text(encoding="utf-8"))
    assert content["valid"] is True
    assert content["bundle_digest"] == ModelBundle.load("roadworld-nano").digest
    figures = dict(numbers(content))
    depths = [f"r{depth}{end}" for depth in (1, 5, 10) for end in ("", "_low", "_high")]
    kinds = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    for name in (
        *(f"retrieval.{way}.{depth}" for way in ("i2t", "t2i") for depth in depths),
        *(f"pope.{split}.{kind}" for split in (*SPLITS, "mean") for kind in kinds),
        *(f"hallucination.{kind}.{scale}" for kind in ("chair_s", "chair_i") for scale in SCALES),
        *(f"answers.{of}.{kind}" for of in ("weather", "mean") for kind in ("accuracy", "ece_low")),
        *("tags.macro.ap", "tags.car.f1", "cost.total_ms"),
    ):
        assert name in figures, name
    assert {each["of"] for each in content["sets"]} == {
        *("tags and answers", "retrieval", "pope", "hallucination")
    }
    assert all(each["name"] and each["version"] and each["split"] for each in content["sets"])


@pytest.fixture
def answered(streets: Path, tmp_path: Path) -> Path:
    """The same images with answers alone."""
    folder = tmp_path / "answered"
    shutil.copytree(streets, folder)
    for other in ("captions.jsonl", "objects.jsonl"):
        (folder / other).unlink()
    return folder


def test_two_bundles_beside_each_other_and_a_second_run_goes_on(
    answered: Path, hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--against", hot, "--data", answered, "--out", tmp_path / "card")
    result = made(*arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "card" / "report.html").read_text(encoding="utf-8")
    assert "Which differences are real" in text
    assert len(Page(text).svgs) == 2
    content = json.loads((tmp_path / "card" / "report.json").read_text(encoding="utf-8"))
    assert content.keys() & {"tags", "retrieval", "pope", "hallucination"} == set()
    assert content["against"]["bundle_digest"] == ModelBundle.load(str(hot)).digest
    different = content["differences"]["answers.construction.nll"]
    assert different["second"] == content["against"]["answers"]["construction"]["nll"]
    assert different["second"] > different["first"]
    assert content["differences"]["answers.weather.nll"]["difference"] == 0

    def look(*_: object) -> None:
        raise AssertionError("what was finished is not done again")

    monkeypatch.setattr(scenes.Looker, "look", look)
    monkeypatch.setattr(evaluate, "write_page", lambda *_: "")
    again = made(*arguments)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "card" / "report.json").read_text(encoding="utf-8")) == content


def test_other_evaluations_of_the_same_bundle_are_shown(tmp_path: Path, hot: Path) -> None:
    shipped, other = ModelBundle.load("roadworld-nano"), ModelBundle.load(str(hot))
    hazards, drives = tmp_path / "hazards.json", tmp_path / "drives.json"
    rows = [
        {"bundle": "a", "bundle_digest": each.digest, "path": "fast", "recall": {"5-10 m": recall}}
        for each, recall in ((shipped, 0.9), (other, 0.8))
    ]
    hazards.write_text(json.dumps({"scenes": 200, "rows": rows}))
    drives.write_text(
        json.dumps({"saved": 80.9, "form": "trained", "bundle_digest": shipped.digest})
    )
    recall = "rows.fast.recall.5-10 m"
    assert read_exams([hazards, drives], [shipped, other]) == {
        "hazards": [{recall: 0.9}, {recall: 0.8}],
        "drives": [{"saved": 80.9}, {}],
    }
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"bundle_digest": shipped.digest, "saved": 10**400}))
    for file, bundle, sentence in (
        (large, shipped, "cannot be read"),
        (drives, other, "has no figures of bundle"),
        (tmp_path / "none.json", shipped, "cannot be read"),
        (tmp_path, shipped, "cannot be read"),
    ):
        with pytest.raises(ExamError, match=sentence):
            read_exams([file], [bundle])


def test_what_one_of_two_bundles_lacks_is_shown_of_the_other() -> None:
    full = {f"{stage}_ms": 4.0 for stage in STAGES}
    f1 = {f"pope.{each}.f1": Estimate(0.8, 0.7, 0.9) for each in (*SPLITS, "mean")}
    bundles = [
        Examined("own", "1", {}, None, None, {**full, "tower_ms": None}),
        Examined("other", "2", f1, None, None, {**full, "tower_ms": 7.0}),
    ]
    page = Page(text := write_page(bundles, {}, {}, [], [], QUIET))
    (latency,) = (svg for svg in page.svgs if "ms, median" in svg)
    assert all(stage in latency for stage in STAGES)
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*tower.*?</tr>", text, re.DOTALL)
    assert "not known" in row and ">7<" in row
    assert any("F1" in svg for svg in page.svgs)


def test_labels_are_drawn_as_they_are() -> None:
    label = "$x^$ <b> font: 9px & 车"
    (svg,) = Page(plots.curves({label: [plots.Curve(np.array([0.5, 1]), np.ones(2))]})).svgs
    assert label in "".join(ElementTree.fromstring(svg).itertext())


def test_bad_input_is_told_in_a_sentence(streets: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "card")
    (tmp_path / "empty").mkdir()
    for arguments, sentence in (
        (("--data", tmp_path / "empty"), "has neither captions.jsonl nor objects.jsonl nor"),
        (("--against", "roadworld-nano"), "are the same bundle; compare it with another one"),
        (("--data", streets, "--scenes", 5), "leave it out with --data"),
    ):
        result = made(*arguments, *out)
        assert (result.exit_code, sentence in result.output) == (2, True), result.output


def test_a_missing_image_is_named_and_may_be_left_out(answered: Path, tmp_path: Path) -> None:
    exam, digest = tmp_path / "drives.json", ModelBundle.load("roadworld-nano").digest
    exam.write_text(json.dumps({"saved": 80.9, "bundle_digest": digest}))
    gone = sorted(answered.glob("*.jpg"))[1]
    gone.unlink()
    arguments = ("--data", answered, "--out", tmp_path / "card", "--exam", exam)
    result = made(*arguments)
    assert (result.exit_code, gone.name in result.output) == (2, True)
    assert "--skip-broken" in result.output
    result = made(*arguments, "--skip-broken")
    assert result.exit_code == 0, result.output
    assert "1 of 2 images are missing or broken" in result.output
    content = json.loads((tmp_path / "card" / "report.json").read_text(encoding="utf-8"))
    assert content["exams"] == {"drives": {digest: {"saved": 80.9}}}
    assert "80.9" in (tmp_path / "card" / "report.html").read_text(encoding="utf-8")
