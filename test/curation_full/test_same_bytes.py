# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""All five stages, with everything that a recipe can ask for, give the same bytes however they run.

`make check-curation` runs this with Ray and with the OpenCV that has detectors.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster
from support.places import SUPPORT
from support.troubled_images import (
    ALONE,
    COPIES,
    FAIL,
    OF_ORIGINALS,
    ORIGINALS,
    PICTURES,
    TOO_SMALL,
    make_sources,
)

from vlm_perception.curation.stage_folder import CAPTIONED, FILTERED, FINAL, QUALITY, RAW, STAGES

BUNDLE = {"kind": "bundle", "path": "roadworld-nano"}
RECIPE = {
    "sources": [
        {"kind": "folder", "path": "../photos", "licence": "CC0-1.0", "unrelated": True},
        {"kind": "captions", "path": "../captioned", "unrelated": True},
        {"kind": "recording", "path": "../drive", "rate_hz": 5.0},
        {"kind": "recording", "path": "../drive", "key_frames": "roadworld-nano"},
    ],
    "filter": {"embedding": {"encoder": BUNDLE, "cosine": 0.98}, "blur": ["faces", "plates"]},
    "captions": {"languages": ["en"], "captioner": BUNDLE},
    # Between these are some of the captions, which are written again.
    "quality": {
        "encoder": BUNDLE,
        "prefix": "",
        "scale": "cosine",
        "accept": 0.1,
        "reject": -0.1,
        "retrieval": {"pool": 1000, "most_missed": 0.9},
    },
    "final": {"shard_mb": 1},
}
PART = 64
"""Records that are stored at a time: fewer may be lost by a kill."""
DRIVER = SUPPORT / "curate_driver.py"
PYTHON = [sys.executable, "-P"]
FINISH = "finish"


@dataclass(frozen=True)
class Whole:
    """The set that was made in one go, by one worker, and what that took."""

    place: Path
    """The folder of the sources, beside which sets are made."""
    folder: Path
    digests: dict[str, str]
    noted: Counter[str]


def prepared(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Of each stage: names and bytes of all its files."""
    found = {}
    for stage in STAGES:
        content = hashlib.sha256()
        for file in sorted(file for file in (folder / stage).rglob("*") if file.is_file()):
            content.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
        found[stage] = content.hexdigest()
    return found


def curate(*words: str | Path, code: int = 0) -> str:
    command = [*PYTHON, "-m", "vlm_perception.cli", "curate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def driven(folder: Path, log: Path, *kill: str | int) -> int:
    command = [*PYTHON, str(DRIVER), str(folder), str(log), *map(str, kill)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if kill else 0), done.stdout + done.stderr
    return done.returncode


def noted(log: Path) -> Counter[str]:
    return Counter(log.read_text().splitlines())


def lines(folder: Path, stage: str, status: str) -> list[dict]:
    return [json.loads(line) for line in (folder / stage / f"{status}.jsonl").open()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("curation")
    make_sources(place)
    folder = prepared(place, "whole")
    driven(folder, place / "whole.log")
    return Whole(place, folder, digests(folder), noted(place / "whole.log"))


def kind_of(record: dict) -> str:
    return record["path"].split("/")[0]


def test_every_kind_of_trouble_is_accounted_for(whole):
    manifests = {
        stage: json.loads((whole.folder / stage / "stage.json").read_bytes()) for stage in STAGES
    }
    for each in manifests.values():
        assert each["received"] == each["kept"] + each["rejected"] + each["failed"]
    failed = Counter(
        kind_of(each) for each in lines(whole.folder, RAW, "failed") if each["source"] == 0
    )
    # The link to a folder above, too.
    assert failed == {kind: ALONE[kind][0] for kind in FAIL & ALONE.keys()} | {"links_in_a_loop": 4}
    photos = [each for each in lines(whole.folder, RAW, "kept") if each["source"] == 0]
    kept = Counter(map(kind_of, photos))
    assert kept == {
        **{kind: ALONE[kind][0] for kind in ALONE.keys() - FAIL},
        **dict.fromkeys(OF_ORIGINALS, ORIGINALS),
        "exif_orientation": 8,
    }
    for kind in ("cmyk", "png_of_16_bits", "animated_gif", "animated_webp"):
        assert all(each["changed"] for each in photos if kind_of(each) == kind), kind
    rejected = lines(whole.folder, FILTERED, "rejected")
    small = Counter(map(kind_of, (each for each in rejected if each["rule"] == "min_side")))
    assert small == {kind: ALONE[kind][0] for kind in TOO_SMALL}
    # Of an original and its copies by compression and size one stays.
    near = {"originals", *COPIES}
    groups = Counter(
        Path(each["path"]).stem
        for each in lines(whole.folder, FILTERED, "kept")
        if each["source"] == 0 and kind_of(each) in near
    )
    assert max(groups.values()) == 1
    assert len(photos) > PICTURES
    rules = {each["rule"] for each in rejected}
    assert {"min_side", "phash_distance", "embedding_cosine"} <= rules
    assert any("trigger" in each for each in lines(whole.folder, RAW, "kept"))
    # Captions in another language are asked for again, and so are images without any.
    german = [
        each for each in lines(whole.folder, CAPTIONED, "kept") if kind_of(each) == "in_german"
    ]
    assert german
    assert all({"de", "en"} == {each["language"] for each in g["captions"]} for g in german)
    assert whole.noted["request"] > len(german)
    assert manifests[QUALITY]["rejected"] > 0
    assert len(list((whole.folder / FINAL).rglob("*.tar"))) >= 3


def test_what_was_drawn_is_blurred(whole):
    judged = [
        each for status in ("kept", "rejected") for each in lines(whole.folder, FILTERED, status)
    ]
    for kind, region in (("face", "faces"), ("number_plate", "plates")):
        blurred = [each["blurred"][region] for each in judged if kind_of(each) == kind]
        assert len(blurred) == ALONE[kind][0]
        assert sum(map(bool, blurred)) >= len(blurred) - 1, kind


def test_four_workers(whole):
    folder = prepared(whole.place, "four")
    curate("run", folder, "--workers", "4")
    assert digests(folder) == whole.digests


def test_two_nodes(whole):
    folder = prepared(whole.place, "nodes")
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        curate("run", folder, "--ray-address", cluster.address)
    finally:
        cluster.shutdown()
    assert digests(folder) == whole.digests


def test_killed_in_each_stage(whole, capsys):
    """In the midst of the records of a stage, and when they are all there."""
    folder, log = prepared(whole.place, "killed"), whole.place / "killed.log"
    for stage in STAGES:
        for place in (max(1, whole.noted[stage] * 3 // 5), FINISH):
            driven(folder, log, stage, place)
            assert not (folder / stage / "stage.json").exists()
            assert f"{stage}: unfinished" in " ".join(curate("status", folder).split())
    driven(folder, log)
    found = noted(log)
    with capsys.disabled():
        print("\nstage: records, tasks and requests that were computed again")
        for stage in STAGES:
            again = found[stage] - whole.noted[stage]
            tasks = found[f"task of {stage}"] - whole.noted[f"task of {stage}"]
            print(f"{stage}: {again} of {whole.noted[stage]} records, {tasks} tasks")
            assert 0 <= again < PART
            # The one that was in flight.
            assert tasks == 1
        print(f"requests: {found['request'] - whole.noted['request']} of {whole.noted['request']}")
    assert 0 <= found["request"] - whole.noted["request"] <= 2
    assert digests(folder) == whole.digests
