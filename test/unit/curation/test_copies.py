# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Copies are found by the rules that can find them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from support.curation import curate, lines, prepare
from support.recordings import write

from vlm_perception.curation.encoders import open_encoder
from vlm_perception.curation.recipe import BundleEncoder
from vlm_perception.datasets.roadworld.streets import Streets

BUNDLE = {"kind": "bundle", "path": "roadworld-nano"}


@pytest.fixture(scope="module")
def streets():
    return [street.image for street in Streets(range(5_000_000, 5_000_006), (320, 240))]


def write_images(folder, images):
    folder.mkdir()
    for name, image in images.items():
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def test_flipped_images_are_found_by_embedding_only(tmp_path, streets, monkeypatch):
    images = {f"{number}.png": image for number, image in enumerate(streets)}
    flipped = {f"flip{number}.png": cv2.flip(streets[number], 1) for number in (1, 5)}
    half = {"half2.png": cv2.resize(streets[2], None, fx=0.95, fy=0.95)}
    write_images(tmp_path / "images", images | flipped | half)
    rule = {"encoder": BUNDLE, "cosine": 0.95}
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"}, embedding=rule)
    curate("run", folder)
    names = {each["id"]: each["path"] for each in lines(folder, "00_raw", "kept")}
    rejected = {
        frozenset((each["path"], names[each["stayed"]])): each
        for each in lines(folder, "01_filtered", "rejected")
    }
    assert {pair: each["rule"] for pair, each in rejected.items()} == {
        frozenset(("1.png", "flip1.png")): "embedding_cosine",
        frozenset(("5.png", "flip5.png")): "embedding_cosine",
        frozenset(("2.png", "half2.png")): "phash_distance",
    }
    assert all(
        0.95 <= each["figure"] <= 1 for each in rejected.values() if "cosine" in each["rule"]
    )
    assert not any("embedding" in each for each in lines(folder, "01_filtered", "kept"))
    # What was embedded once is not embedded again: the last digits may be others elsewhere.
    monkeypatch.setattr(open_encoder(BundleEncoder(**BUNDLE), folder), "images", None)
    curate("run", folder, "--redo", "01_filtered", "--to", "01_filtered")
    assert {each["path"] for each in lines(folder, "01_filtered", "rejected")} == {
        each["path"] for each in rejected.values()
    }
    prepare(folder, {"kind": "folder", "path": "../images"}, embedding=rule | {"cosine": 0.999})
    assert "filter.embedding.cosine was 0.95" in curate("run", folder, code=2)


def test_what_is_known_of_exact_copies_stays_with_the_one_that_stays(tmp_path, streets):
    said = {"first": ("en", "a street"), "second": ("de", "eine Straße")}
    for name, (language, text) in said.items():
        write_images(tmp_path / name, {"0.png": streets[0]})
        line = {"image": "0.png", "captions": [text], "language": language}
        (tmp_path / name / "captions.jsonl").write_text(json.dumps(line))
    seen = {"image": "0.png", "objects": ["car"]}
    (tmp_path / "second" / "objects.jsonl").write_text(json.dumps(seen))
    # The same pixels in another file, without captions.
    (tmp_path / "plain").mkdir()
    pixels = cv2.cvtColor(streets[0], cv2.COLOR_RGB2BGR)
    for level in (1, 9):
        name = str(tmp_path / "plain" / f"{level}.png")
        cv2.imwrite(name, pixels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    plain = {"kind": "folder", "path": "../plain"}
    sources = [{"kind": "captions", "path": f"../{name}"} for name in said]
    folder = prepare(tmp_path / "set", plain, sources[0], sources[1] | {"licence": "CC0"})
    curate("run", folder, "--to", "01_filtered")
    kept = lines(folder, "01_filtered", "kept")
    assert [each["source"] for each in kept] == [1]
    found = [(each["language"], each["text"]) for each in kept[0]["captions"]]
    assert (found, kept[0]["objects"], kept[0]["licence"]) == ([*said.values()], ["car"], "CC0")
    assert {each["stayed"] for each in lines(folder, "01_filtered", "rejected")} == {kept[0]["id"]}


def test_report_says_which_copies_each_rule_finds(tmp_path, streets):
    frames = [
        cv2.imencode(".jpg", np.roll(streets[0], step, axis=1))[1].tobytes() for step in (0, 1, 40)
    ]
    write(tmp_path / "drive", frames)
    write_images(tmp_path / "images", {f"{n}.png": image for n, image in enumerate(streets[1:3])})
    folder = prepare(
        tmp_path / "set",
        {"kind": "folder", "path": "../images"},
        {"kind": "recording", "path": "../drive", "rate_hz": 100.0},
        embedding={"encoder": BUNDLE, "cosine": 0.95},
    )
    curate("run", folder)
    curate("report", folder, "--json", tmp_path / "1.json")
    kept = (folder / "copies.json").stat().st_mtime_ns
    curate("report", folder, "--json", tmp_path / "2.json")
    assert (folder / "copies.json").stat().st_mtime_ns == kept
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    rows = json.loads((tmp_path / "1.json").read_text())["dedup"]
    recall = {(row["kind"], row["rule"]): row["recall"] for row in rows}
    assert len(recall) == 7 * 3
    for kind in ("exact", "jpeg_50", "resize"):
        assert [recall[kind, rule] for rule in ("phash", "embedding", "both")] == [1, 1, 1]
    assert (recall["flip", "phash"], recall["flip", "embedding"]) == (0, 1)
    assert recall["rotate_25", "both"] < 0.5
    assert recall["next_frame", "phash"] == 0.5
    assert {row["precision"] for row in rows if row["recall"]} == {1}
    assert "rotate_25" in (folder / "report.html").read_text()
