# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate pope on a labelled folder: interruptions change nothing, nothing is left out unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.streets import street
from typer.testing import CliRunner

pytest.importorskip("sklearn")

from vlm_perception.cli import app
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.pope.poll import Polled

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
    assert json.loads(figures.read_text())["images"] == 2


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
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: list[str], told: str
) -> None:
    code, said = evaluate(*options, "--out", tmp_path / "out")
    assert (code, told in said) == (2, True), said
