# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Retrieval is ranked exactly, ties count against the model, and what is wrong is named."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.streets import PROPERTY, street
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, CaptionsError, read_captions
from vlm_perception.datasets.roadworld.truth import captions
from vlm_perception.evaluation.retrieval import ranks as ranking
from vlm_perception.evaluation.retrieval.figures import figures
from vlm_perception.evaluation.retrieval.kept import KeptEmbeddings
from vlm_perception.evaluation.retrieval.ranks import ranks
from vlm_perception.perception.vision.text_tower import TextTower


def by_sorting(scores: Any, asked: int, offered: list[int]) -> int:
    """Place of the first right item in the order of the scores, wrong ones first among equals."""
    order = sorted(range(len(offered)), key=lambda i: (-scores[i], offered[i] == asked))
    return next((n for n, i in enumerate(order) if offered[i] == asked), len(offered))


@settings(PROPERTY, max_examples=1000)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_ranks_are_those_of_sorting(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    asked, offered = (
        rng.integers(0, 5, rng.integers(1, 13)),
        rng.integers(0, 5, rng.integers(1, 13)),
    )
    queries, pool = (rng.integers(-2, 3, (len(each), 2)) for each in (asked, offered))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", block)
        found = ranks(queries.astype("f4"), pool.astype("f4"), asked, offered)
    scores = (queries @ pool.T).tolist()
    expected = [by_sorting(*each, offered.tolist()) for each in zip(scores, asked, strict=True)]
    assert found.tolist() == expected


def test_equal_items_tie_wherever_they_stand_and_no_number_finds_nothing() -> None:
    # Products of these rows differ in their last bits where they are at the edge of a matrix.
    rng = np.random.default_rng(0)
    items = np.tile(rng.normal(size=192), (33, 1)).astype(np.float32)
    for queries in (rng.normal(size=(3, 192)).astype(np.float32), np.full((3, 192), np.nan, "f4")):
        for right in range(33):
            assert ranks(queries, items, np.full(3, right), np.arange(33)).tolist() == [32] * 3


def record(i2t: int, t2i: list[int]) -> dict[str, Any]:
    found = {"i2t": i2t, "t2i": t2i}
    return {"image": "", **found, "by_language": {"en": found}}


def test_figures_are_as_counted_by_hand() -> None:
    found = figures([record(0, [0, 3]), record(4, [9]), record(5, [10, 0]), record(0, [0])])
    assert {key: found["i2t"][key] for key in ("r1", "r5", "r10", "pool", "queries")} == {
        "r1": 0.5,
        "r5": 0.75,
        "r10": 1.0,
        "pool": 6,
        "queries": 4,
    }
    assert (found["t2i"]["pool"], found["t2i"]["queries"]) == (4, 6)
    assert [found["t2i"][key] for key in ("r1", "r5", "r10")] == [3 / 6, 4 / 6, 5 / 6]
    orders = list(combinations(range(6), 5))
    # Of the captions 0 to 5, the images have 2, 1, 2 and 1.
    chance = [sum(bool(own & set(first)) for first in orders) for own in ({0, 1}, {2}, {3, 4}, {5})]
    assert found["i2t"]["r5_chance"] == pytest.approx(sum(chance) / 4 / len(orders))
    assert (found["t2i"]["r1_chance"], found["t2i"]["r10_chance"]) == (0.25, 1.0)
    assert found["by_language"]["en"]["i2t"] == found["i2t"]


def test_intervals_are_those_of_as_many_images_not_of_their_captions() -> None:
    found = figures([record(20 * (n % 2), [20 * (n % 2)] * 5) for n in range(400)])
    for direction in ("i2t", "t2i"):
        low, high = (found[direction][f"r1_{end}"] for end in ("low", "high"))
        assert low == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 400), abs=0.01)
        assert high == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 400), abs=0.01)


def test_kept_embeddings_outlive_a_kill_in_mid_write(tmp_path: Path) -> None:
    file, rows = tmp_path / "rows.f32", np.eye(3, dtype=np.float32)
    with KeptEmbeddings(file, 3) as kept:
        kept["a"], kept["b"] = rows[:2]
    whole = file.read_bytes()
    file.write_bytes(whole + b"\0" * len(whole) + whole[:17])
    with KeptEmbeddings(file, 3) as kept:
        assert ("a" in kept, "b" in kept, "c" in kept) == (True, True, False)
        kept["c"] = rows[2]
    with KeptEmbeddings(file, 3) as kept:
        assert np.array_equal(np.stack([kept["a"], kept["b"], kept["c"]]), rows)


GOOD = {"image": "a.png", "captions": ["a car"], "language": "pt-BR"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({**GOOD, "image": 3}, "`image` must be a name"),
        ({**GOOD, "captions": []}, "list of one text or more"),
        ({**GOOD, "captions": "a car"}, "list of one text or more"),
        ({**GOOD, "captions": ["a car", " "]}, "a text that is not empty"),
        ({**GOOD, "captions": ["\ud800"]}, "half a character"),
        ({**GOOD, "language": "German!"}, "a tag such as en"),
    ],
)
def test_bad_captions_are_named(tmp_path: Path, line: dict[str, Any], sentence: str) -> None:
    file = tmp_path / CAPTIONS_FILE
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}")
    with pytest.raises(CaptionsError, match=f"line 2 is not a captioned image .*{sentence}"):
        read_captions(file)
    file.write_text("\n")
    with pytest.raises(CaptionsError, match="names no image"):
        read_captions(file)


def test_long_texts_are_cut_as_by_their_tokenizer() -> None:
    bundle = ModelBundle.load("roadworld-nano")
    tower, length = TextTower.load(bundle), bundle.manifest.text.length
    short = "a car " * (length // 2 - 1)
    assert tower.reads_whole("a car") and not tower.reads_whole(short + "a car and a bus")
    rows = tower.embed_each([short + "a car and a bus", short + "a car", "a car"])
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(rows[2], tower.embed({"x": ["a car"]})[0], atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small streets; the first ones have German captions, too."""
    data, lines = tmp_path / "data", []
    data.mkdir()
    for seed in range(8):
        seen = street(seed)
        Image.fromarray(seen.rendered.image).save(data / f"{seed}.png")
        texts = captions(seen.truth, np.random.default_rng(seed))
        lines.append(
            {"image": f"{seed}.png", "captions": texts[:2], "language": "En" if seed else "EN"}
        )
        if seed < 3:
            lines.append({"image": f"./{seed}.png", "captions": [f"Bild {seed}"], "language": "de"})
    (data / CAPTIONS_FILE).write_text("\n".join(map(json.dumps, lines)))
    return data


def evaluated(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    file, out = folder.parent / "figures.json", str(folder.parent / "out")
    file.unlink(missing_ok=True)
    command = ["evaluate", "retrieval", "--data", str(folder), "--out", out, "--json", str(file)]
    done = CliRunner().invoke(app, [*command, *options])
    words = " ".join(done.output.split())
    return done.exit_code, words, json.loads(file.read_text()) if file.exists() else {}


@pytest.mark.slow
def test_a_folder_is_evaluated_by_language_and_goes_on_where_it_stopped(folder: Path) -> None:
    code, words, found = evaluated(folder)
    assert code == 0, words
    retrieval = found["retrieval"]
    assert (retrieval["i2t"]["pool"], retrieval["t2i"]["pool"]) == (19, 8)
    assert retrieval["t2i"]["r1"] > 3 * retrieval["t2i"]["r1_chance"]
    assert list(retrieval["by_language"]) == ["EN", "de"]
    assert retrieval["by_language"]["de"]["t2i"]["pool"] == 3
    assert found["bundle_digest"] == ModelBundle.load("roadworld-nano").digest
    (kept,) = (folder.parent / "out").glob("*/images.f32")
    (records,) = kept.parent.glob("records-*.jsonl")
    assert str(records) in words.replace(" ", "")
    assert figures([json.loads(line) for line in records.read_text().splitlines()]) == retrieval

    # What was cut off is done again, and nothing else.
    size, before = kept.stat().st_size, kept.read_bytes()
    kept.write_bytes(before[: size // 2 + 7])
    old, foreign = kept.parent.with_name("0" * 16), kept.parent.with_name("photos")
    for each in (old, foreign):
        each.mkdir()
        (each / "images.f32").touch()
    assert evaluated(folder)[2] == found
    assert foreign.exists() and not old.exists(), "embeddings of another version are of no use"
    assert (kept.stat().st_size, kept.read_bytes()[: size // 2]) == (size, before[: size // 2])

    # English alone is as if there were no other captions.
    lines = (folder / CAPTIONS_FILE).read_text().splitlines()
    (folder / CAPTIONS_FILE).write_text("\n".join(x for x in lines if '"de"' not in x))
    _, _, english = evaluated(folder)
    assert english["retrieval"]["t2i"] == retrieval["by_language"]["EN"]["t2i"]
    assert english["retrieval"]["i2t"] == retrieval["by_language"]["EN"]["i2t"]
    assert english["sets"][0]["version"] != found["sets"][0]["version"]

    (folder / "3.png").write_bytes(b"no image")
    (folder / "5.png").unlink()
    code, words, _ = evaluated(folder)
    assert code == 2
    assert "2 of 8 images are missing or broken" in words and "--skip-broken" in words
    code, words, found = evaluated(folder, "--skip-broken")
    assert code == 0 and "3.png" in words and "5.png" in words
    assert (found["retrieval"]["i2t"]["pool"], found["retrieval"]["t2i"]["pool"]) == (12, 6)
    assert evaluated(folder, "--scenes", "3")[0] == 2
