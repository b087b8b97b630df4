# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate pope on a labelled folder: interruptions change nothing, nothing is left out unsaid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.streets import street
from typer.testing import CliRunner

pytest.importorskip("sklearn")

from vlm_perception.cli import app
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.pope.poll import Polled, poll
from vlm_perception.evaluation.pope.questions import PUBLISHED, PopeError
from vlm_perception.evaluation.pope.sets import labelled_folder

SHOWN = {"a.png": ["car", "crosswalk"], "b.png": ["bus", "CAR"], "c.png": ["cone", "barrier"]}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for seed, name in enumerate(SHOWN):
        Image.fromarray(street(seed).rendered.image).save(folder / name)
    lines = ({"image": name, "objects": objects} for name, objects in SHOWN.items())
    (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluate(*options: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", "pope", *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join((result.output + result.stderr).split())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_that_was_cut_off_goes_on_and_gives_the_same(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, figures = tmp_path / "out", tmp_path / "pope.json"
    asked, ask = [], Polled.ask

    def cut_off(self: Polled, image: Any, texts: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(image)
        return ask(self, image, texts)

    monkeypatch.setattr(Polled, "ask", cut_off)
    assert evaluate("--data", labelled, "--out", out)[0] != 0
    assert not (out / "records.jsonl").exists()
    code, said = evaluate("--data", labelled, "--out", out, "--bundle", "missing")
    assert (code, "missing" in said) == (2, True)
    asked.pop()
    code, said = evaluate("--data", labelled, "--out", out, "--json", figures)
    assert code == 0, said
    assert len(asked) == 2
    assert "Target, mean F1 > 0.85: by likelihood" in said
    found = json.loads(figures.read_text())
    assert [each["split"] for each in found["sets"]] == list(SPLITS)
    assert len(found["bundle_digest"]) == len(found["sets"][0]["version"]) == 64
    assert found["pope"].keys() == found["pope_free_text"].keys() == {*SPLITS, "mean"}

    # The published files that it has written give the same answers when they are given.
    monkeypatch.setattr(Polled, "ask", ask)
    questions = [f"--questions={out / 'questions' / split}.jsonl" for split in SPLITS]
    again, others = tmp_path / "again", tmp_path / "again.json"
    code, said = evaluate(*questions, "--images", labelled, "--out", again, "--json", others)
    assert code == 0, said
    assert lines(again / "records.jsonl") == lines(out / "records.jsonl")
    for folder, key in (("likelihood", "pope"), ("free_text", "pope_free_text")):
        answers = [f"--answers={again / folder / split}.jsonl" for split in SPLITS]
        code, said = evaluate(*questions, *answers, "--json", others)
        assert code == 0, said
        scored = json.loads(others.read_text())["pope"]
        for split in (*SPLITS, "mean"):
            assert scored[split].items() <= found[key][split].items()


def test_what_is_broken_is_named_and_left_out_only_when_that_is_said(
    labelled: Path, tmp_path: Path
) -> None:
    folder, out, figures = tmp_path / "data", tmp_path / "out", tmp_path / "pope.json"
    folder.mkdir()
    for name in ("a.png", "c.png", "objects.jsonl"):
        (folder / name).write_bytes((labelled / name).read_bytes())
    worded = ("--wording", "is there {}")
    code, said = evaluate("--data", folder, "--out", out)
    assert code == 2
    assert "1 of 3 images are missing or broken" in said
    assert "b.png" in said
    assert "--skip-broken" in said
    code, said = evaluate(
        "--data", folder, "--out", out, "--skip-broken", "--json", figures, *worded
    )
    assert code == 0, said
    assert "1 of 3 images are missing or broken" in said
    assert {line["image"] for line in lines(out / "records.jsonl")} == {"a.png", "c.png"}
    assert "is there a car" in [line["text"] for line in lines(out / "questions/random.jsonl")]
    found = json.loads(figures.read_text())
    assert (found["images"], found["valid"]) == (2, True)
    assert found["broken"] == {"count": 1, "names": ["b.png"]}


class Asked(Polled):
    """Counts what it is asked, and says yes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check(self, texts: Any) -> None:
        pass

    def ask(self, image: Any, texts: Any) -> Any:
        self.asked += texts
        return dict.fromkeys(texts, ("yes", 0.9, "Yes."))


def test_an_image_that_breaks_in_mid_run_is_left_out_and_the_rest_counts(
    labelled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(labelled, folder)
    found, versions = [], []
    for _ in range(2):
        polled = Asked()
        chosen = labelled_folder(folder, PUBLISHED, skip_broken=True)
        before = chosen.versions()
        (folder / "b.png").write_bytes(b"")
        with Journal(tmp_path / "journal.jsonl", {}) as journal:
            records = poll(polled, chosen, journal)
            known = [text for item in journal.items.values() for text in item]
        assert {record.image for record in records} == {"a.png", "c.png"}
        assert [record.question for record in records] == [
            question.text for questions in chosen.questions.values() for question in questions
        ]
        assert "1 of 3 images are missing or broken" in " ".join(chosen.notes())
        found.append((polled.asked, known))
        versions.append((before, chosen.versions()))
    assert versions[0][0] != versions[0][1]
    # The next run has other questions, yet none is asked twice.
    assert sorted(found[0][0] + found[1][0]) == sorted(found[1][1])


def test_a_question_that_no_bundle_takes_is_refused_before_the_first_is_asked() -> None:
    with pytest.raises(PopeError, match="has 1001 characters"):
        Polled.check(Asked(), ["x" * 1001])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--questions", "random.json"], "--images"),
        (["--images", "."], "--questions"),
        (["--answers", "random.jsonl"], "--questions"),
        (["--answers", "a", "--data", "."], "--data"),
        (["--questions", "random.json", "--images", ".", "--data", "."], "--data"),
        (["--questions", "random.json", "--images", "."], "random.json cannot be read"),
        (["--data", ".", "--wording", "is there a thing"], "--wording"),
        (["--data", "/nowhere"], "objects.jsonl cannot be read"),
        (["--images", ".", "--data", "."], "--data: leave it out with --images"),
        (["--answers", "a", "--questions", "a", "--skip-broken"], "--skip-broken: leave it out"),
        (["--answers", "a", "--questions", "a", "--out", "b"], "--out: leave it out"),
        (["--skip-broken"], "--skip-broken: is for --data"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: list[str], told: str
) -> None:
    out = () if "--answers" in options else ("--out", tmp_path / "out")
    code, said = evaluate(*options, *out)
    assert (code, told in said) == (2, True), said
