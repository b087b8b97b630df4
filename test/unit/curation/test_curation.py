# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A set is made from any kind of source, accounts for every image, and is the same each time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import yaml
from support.curation import curate, lines, picture, prepare, saved, tar_of
from support.recordings import START_NS, STEP_NS, jpeg, write, write_ros1
from support.videos import make_video

from vlm_perception.curation import run, tasks
from vlm_perception.curation.image_files import decode, usable_image
from vlm_perception.curation.recipe import Recipe
from vlm_perception.curation.tasks import Tasks
from vlm_perception.outputs import swap

STAGES = ("00_raw", "01_filtered", "04_final")


def digest(folder):
    content = hashlib.sha256()
    for file in sorted(file for stage in STAGES for file in (folder / stage).rglob("*.*")):
        content.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return content.hexdigest()


def troubled(folder):
    """Images with every kind of trouble; returns those that fail and what is said of them."""
    folder.mkdir(parents=True)
    for seed in range(6):
        (folder / f"{seed}.jpg").write_bytes(saved(picture(seed), quality=90))
    (folder / "q50.jpg").write_bytes(saved(picture(0), quality=50))
    (folder / "half.png").write_bytes(saved(picture(1, 640, 480), "PNG"))
    (folder / "named.dat").write_bytes(saved(picture(7)))
    (folder / "truly_png.jpg").write_bytes(saved(picture(8), "PNG"))
    (folder / "cmyk.jpg").write_bytes(saved(PIL.Image.fromarray(picture(9)).convert("CMYK")))
    wide = (picture(10)[..., 0].astype(np.uint16) * 257).copy()
    (folder / "deep.png").write_bytes(saved(PIL.Image.fromarray(wide), "PNG"))
    frames = [PIL.Image.fromarray(picture(seed)) for seed in (11, 12)]
    (folder / "animated.gif").write_bytes(
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    (folder / "thin.png").write_bytes(saved(picture(13, 4000, 1), "PNG"))
    (folder / "223.png").write_bytes(saved(picture(14, 223, 224), "PNG"))
    (folder / "224.png").write_bytes(saved(picture(15, 224, 224), "PNG"))
    (folder / "note.txt").write_text("no image")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes(saved(picture(16))[:3000])
    (folder / "cut.png").write_bytes(saved(picture(16), "PNG")[:-3000])
    (folder / "huge.png").write_bytes(saved(PIL.Image.new("1", (14_000, 14_000)), "PNG"))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "above").symlink_to("..")
    (folder / "outside.jpg").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe.jpg")
    return {
        "empty.jpg": "it is empty",
        "text.jpg": "it is no image",
        "cut.jpg": "ends in mid-image",
        "cut.png": "truncated",
        "huge.png": "more than 100000000 pixels",
        "loop.jpg": "loop",
        "above": "link to a folder",
        "outside.jpg": "leads out of",
        "pipe.jpg": "a pipe",
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9003] = "2026:03:01 12:00:00"
    file = saved(picture(0, 64, 48), "PNG", exif=exif)
    made = usable_image(file)
    wanted = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(file))))
    assert (made.height, made.width) == wanted.shape[:2]
    assert np.abs(decode(made.file).astype(int) - wanted).mean() < 8
    assert made.stamp_ns == 1_772_366_400_000_000_000
    assert (made.file == file) == (orientation == 1)


def test_every_image_is_accounted_for(tmp_path, monkeypatch):
    wrong = troubled(tmp_path / "images")
    source = {"kind": "folder", "path": "../images", "licence": "CC0-1.0", "camera": "front"}
    folder = prepare(tmp_path / "set", source)
    curate("run", folder)
    failed = {each["path"]: each["reason"] for each in lines(folder, "00_raw", "failed")}
    assert failed.keys() == wrong.keys()
    assert [name for name in wrong if wrong[name] not in failed[name]] == []
    raw = {each["path"]: each for each in lines(folder, "00_raw", "kept")}
    assert {name: each["changed"] for name, each in raw.items() if each["changed"]} == {
        "cmyk.jpg": ["CMYK converted to RGB"],
        "deep.png": ["16 bits reduced to 8"],
        "animated.gif": ["first frame of 2", "GIF written as JPEG"],
    }
    as_it_was = (tmp_path / "images" / "truly_png.jpg").read_bytes()
    assert (folder / raw["truly_png.jpg"]["file"]).read_bytes() == as_it_was
    assert {each["licence"] for each in raw.values()} == {"CC0-1.0"}
    ids = {each["id"]: each["path"] for each in raw.values()}
    rejected = {
        each["path"]: (each["rule"], each["figure"], ids.get(each.get("stayed")))
        for each in lines(folder, "01_filtered", "rejected")
    }
    assert rejected["thin.png"] == ("min_side", 1, None)
    assert rejected["223.png"] == ("min_side", 223, None)
    copies = {name: each for name, each in rejected.items() if each[0] == "phash_distance"}
    # Of a pair the sharper one stays.
    assert len(copies) == 2
    pairs = {frozenset((name, stayed)) for name, (_, _, stayed) in copies.items()}
    assert pairs == {frozenset(("0.jpg", "q50.jpg")), frozenset(("1.jpg", "half.png"))}
    monkeypatch.setattr("vlm_perception.curation.report.page.LISTED", len(wrong) - 2)
    curate("report", folder, "--json", tmp_path / "figures.json")
    for stage in json.loads((tmp_path / "figures.json").read_text())["stages"]:
        assert stage["received"] == stage["kept"] + stage["rejected"] + stage["failed"]
    page = (folder / "report.html").read_text()
    assert sum(f"<td>{name}</td>" in page for name in wrong) == len(wrong) - 2
    assert "and 2 more" in page
    assert page.count("data:image/jpeg") >= 8


def test_all_kinds_of_sources(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in "abc":
        (images / f"{name}.jpg").write_bytes(saved(picture(ord(name))))
    captions = [
        {"image": "a.jpg", "captions": ["a red bus"], "language": "en"},
        {"image": "./a.jpg", "captions": ["ein roter Bus"], "language": "de"},
        {"image": "../a.jpg", "captions": ["out"]},
    ]
    (images / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    (images / "objects.jsonl").write_text('{"image": "x/../a.jpg", "objects": ["bus"]}')
    harvest = {"file_name": "b.jpg", "text": "a road", "stamp": 7, "recording": "drive"}
    (images / "metadata.jsonl").write_text(json.dumps(harvest))
    coco = {
        "licenses": [{"id": 4, "name": "Attribution"}],
        "images": [
            {"id": 1, "file_name": "c.jpg", "license": 4},
            {"id": 2, "file_name": "./c.jpg"},
        ],
        "annotations": [
            {"image_id": n, "caption": text} for n, text in ((1, "a car"), (2, "a van"))
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    sample = {"caption": "a tram", "license": "CC0"}
    shard = {
        "x/000.jpg": saved(picture(1)),
        "x/000.json": json.dumps(sample).encode(),
        "x/001.txt": b"no image",
        "../002.png": saved(picture(2), "PNG"),
        "../002.txt": b"a bike",
    }
    tar_of(tmp_path / "0.tar", shard.items())
    tar_of(tmp_path / "1.tar", [("000.jpg", saved(picture(3)))])
    cut = (tmp_path / "1.tar").read_bytes()[:900]
    (tmp_path / "1.tar").write_bytes(cut)
    files = [jpeg(index, 320, 240) for index in range(12)]
    write(tmp_path / "drive", files)
    write_ros1(tmp_path / "old.bag", files[:3])
    make_video(tmp_path / "clip.mp4")
    folder = prepare(
        tmp_path / "set",
        {"kind": "captions", "path": "../images"},
        {"kind": "harvest", "path": "../images"},
        {"kind": "coco", "path": "../coco.json", "images": "../images", "licence": "other"},
        {"kind": "webdataset", "path": "../?.tar", "language": "en"},
        {"kind": "recording", "path": "../drive", "rate_hz": 2.0},
        {"kind": "recording", "path": "../old.bag", "rate_hz": 100.0},
        {"kind": "recording", "path": "../clip.mp4", "rate_hz": 10.0},
    )
    curate("run", folder, "--to", "00_raw")
    kept = lines(folder, "00_raw", "kept")
    by_source = {n: [each for each in kept if each["source"] == n] for n in range(7)}
    texts = [[c["text"] for c in each.get("captions", [])] for each in kept if each["source"] < 4]
    of_lists = [["a red bus", "ein roter Bus"], ["a road"], ["a car", "a van"]]
    assert texts == [*of_lists, ["a tram"], ["a bike"]]
    assert kept[0]["objects"] == ["bus"]
    assert [each.get("licence") for each in kept[2:5]] == ["Attribution", "CC0", None]
    assert (by_source[1][0]["stamp_ns"], by_source[1][0]["recording"]) == (7, "drive")
    taken = [(each["stamp_ns"] - START_NS) // STEP_NS for each in by_source[4]]
    assert taken == [0, 5, 10]
    stored = (folder / by_source[4][0]["file"]).read_bytes()
    assert stored == files[0]
    assert len(by_source[5]) == 3
    assert [each["time_s"] for each in by_source[6]] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], abs=0.04
    )
    failed = [each["reason"] for each in lines(folder, "00_raw", "failed")]
    assert len(failed) == 3
    for part, reason in zip(("leads out of the folder", "no image", "tar"), failed, strict=True):
        assert part in reason


def test_stale_stages_are_named_and_made_again_only_when_asked_for(tmp_path):
    (tmp_path / "images").mkdir()
    for name, quality in (("a", 90), ("copy", 50)):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(saved(picture(0), quality=quality))
    (tmp_path / "images" / "small.jpg").write_bytes(saved(picture(1, 223, 224)))
    source = {"kind": "folder", "path": "../images"}
    folder = prepare(tmp_path / "set", source)
    curate("run", folder, "--to", "00_raw")
    first = (folder / "00_raw" / "stage.json").stat().st_mtime_ns
    curate("run", folder)
    assert (folder / "00_raw" / "stage.json").stat().st_mtime_ns == first
    prepare(folder, source, min_side=1, phash_distance=None)
    assert "filter.min_side was 224 and is 1 now" in curate("status", folder)
    assert "--redo 01_filtered" in curate("run", folder, code=2)
    assert len(lines(folder, "01_filtered", "rejected")) == 2
    curate("run", folder, "--redo", "01_filtered")
    assert lines(folder, "01_filtered", "rejected") == []
    assert (folder / "00_raw" / "stage.json").stat().st_mtime_ns == first
    assert not (folder / ".unfinished").exists()


@pytest.mark.parametrize("ended", ["at_work", "between_two_names", "in_its_place"])
def test_making_again_goes_on_from_where_it_was_ended(tmp_path, monkeypatch, ended):
    """On a file system that cannot exchange names, and moves the old stage aside."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(saved(picture(0)))
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"})
    curate("run", folder, "--to", "01_filtered")
    monkeypatch.setattr(swap, "exchanged", lambda *_: False)
    (tmp_path / "images" / "b.jpg").write_bytes(saved(picture(1)))
    rename = Path.rename

    def interrupted(*_):
        raise KeyboardInterrupt

    def aside_alone(path, to):
        return interrupted() if path.name == "stage" else rename(path, to)

    moment = {
        "at_work": (Tasks, "do", interrupted),
        "between_two_names": (Path, "rename", aside_alone),
        "in_its_place": (run, "end_stage", interrupted),
    }
    with monkeypatch.context() as at:
        at.setattr(*moment[ended])
        curate("run", folder, "--redo", "00_raw", "--to", "01_filtered", code=130)
    curate("run", folder, "--to", "01_filtered")
    assert len(lines(folder, "01_filtered", "kept")) == 2
    assert not (folder / ".unfinished").exists()


def test_no_file_of_a_user_goes_with_an_old_stage(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(saved(picture(0)))
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"})
    curate("run", folder)
    for name in ("01_filtered/notes.txt", "00_raw/images/mine.jpg", "04_final/train/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        assert name.partition("/")[2] in curate("run", folder, "--redo", "00_raw", code=2)
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()
        curate("run", folder)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("sources: []", "sources"),
        ("sources: [{kind: folder, path: gone}]", "does not exist"),
        ("sources: [{kind: folder, path: ..}]", "inside its source"),
        ("sources: [{kind: folder, path: ., colour: red}]", "colour"),
        ("sources: [{kind: magic, path: .}]", "magic"),
        ("filter: {min_side: 0}", "min_side"),
        ("sources: [", "YAML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path, recipe, sentence):
    (tmp_path / "recipe.yaml").write_text(recipe)
    told = curate("run", tmp_path, code=2)
    assert told.startswith("error: ")
    assert sentence in told


def test_sources_without_a_usable_image_are_refused_with_the_first_reason(tmp_path):
    write(tmp_path / "drive", [jpeg(0)], topics=("/left/compressed", "/right/compressed"))
    folder = prepare(tmp_path / "set", {"kind": "recording", "path": "../drive"})
    assert "has 2 cameras" in curate("run", folder, code=2)
    prepare(folder, {"kind": "recording", "path": "../drive", "topic": "/left/compressed"})
    curate("run", folder, "--to", "00_raw")
    assert lines(folder, "00_raw", "kept")[0]["camera"] == "/left/compressed"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_without_a_cluster_is_refused(tmp_path, address):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(saved(picture(0)))
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"})
    assert "no Ray cluster" in curate("run", folder, "--ray-address", address, code=2)


def test_init_writes_a_recipe_once(tmp_path):
    assert "curate init" in curate("run", tmp_path, code=2)
    curate("init", tmp_path / "set")
    assert "exists" in curate("init", tmp_path / "set", code=2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(saved(picture(0)))
    curate("run", tmp_path / "set")
    assert len(lines(tmp_path / "set", "01_filtered", "kept")) == 1


def test_every_key_of_a_recipe_is_in_the_example(tmp_path):
    curate("init", tmp_path)
    example = (tmp_path / "recipe.yaml").read_text()
    schema = Recipe.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    keys = {key for model in models for key in model["properties"]}
    assert {"min_side", "timeout_s", "good_pairs"} <= keys
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", example)] == []


def test_init_tells_sources_apart(tmp_path):
    write(tmp_path / "drive", [jpeg(0)])
    for name, file in {
        "photos": "a.jpg",
        "said": "captions.jsonl",
        "found": "metadata.jsonl",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "clip: 1.mp4").touch()
    names = ("drive", "photos", "said", "found", "clip: 1.mp4", "*.tar")
    paths = [str(tmp_path / name) for name in names]
    curate("init", tmp_path / "set", *(word for path in paths for word in ("--source", path)))
    made = yaml.safe_load((tmp_path / "set" / "recipe.yaml").read_text())["sources"]
    kinds = ("recording", "folder", "captions", "harvest", "recording", "webdataset")
    assert made == [
        {"kind": kind, "path": f"../{name}"} for kind, name in zip(kinds, names, strict=True)
    ]
    for gone in ("gone", "photos/a.jpg"):
        assert "error" in curate("init", tmp_path / "2", "--source", tmp_path / gone, code=2)
    assert not (tmp_path / "2").exists()
    assert "no UTF-8" in curate("init", tmp_path / "2", "--source", tmp_path / "\udcff.tar", code=2)


def test_init_writes_what_run_finds(tmp_path):
    photos = tmp_path / "Fotos \N{AUTOMOBILE}"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(saved(picture(0)))
    # From where the folder itself is, the photos are somewhere else.
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "set").symlink_to("disk/set")
    curate("init", tmp_path / "set", "--source", photos)
    curate("run", tmp_path / "set", "--to", "00_raw")
    assert [each["path"] for each in lines(tmp_path / "set", "00_raw", "kept")] == ["a.jpg"]


@pytest.mark.slow
def test_workers_of_ray_make_the_same(tmp_path):
    pytest.importorskip("ray")
    troubled(tmp_path / "images")
    source = {"kind": "folder", "path": "../images"}
    alone, together = prepare(tmp_path / "1", source), prepare(tmp_path / "2", source)
    curate("run", alone)
    curate("run", together, "--workers", "2")
    assert digest(together) == digest(alone)


@pytest.mark.slow
def test_what_a_user_has_put_into_the_unfinished_folder_stays(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.jpg").write_bytes(saved(picture(0, 240, 240)))
    own = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"})
    mine = own / ".unfinished" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert "mine.txt, which this program has not made" in curate("run", own, code=2)
    assert mine.read_text() == "mine"


KILLED = """
import os, signal, sys
from vlm_perception.curation import run, tasks
tasks.RECORDS_A_PART, write_lines = 4, tasks.write_lines

def write(file, records):
    write_lines(file, records)
    if file.name.endswith("-000001.jsonl"):
        os.kill(os.getpid(), signal.SIGKILL)

tasks.write_lines = write
from rich.console import Console
from pathlib import Path
run.run(Path(sys.argv[1]), run.Options(), Console())
"""


def test_a_killed_run_goes_on_and_makes_the_same(tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(14):
        (images / f"{seed}.jpg").write_bytes(saved(picture(seed, 240, 240)))
    source = {"kind": "folder", "path": "../images"}
    whole, killed = prepare(tmp_path / "whole", source), prepare(tmp_path / "killed", source)
    monkeypatch.setattr(tasks, "RECORDS_A_PART", 4)
    curate("run", whole)
    process = subprocess.run([sys.executable, "-P", "-c", KILLED, killed], check=False)
    assert process.returncode == -signal.SIGKILL
    parts = killed / ".unfinished" / "parts"
    assert "unfinished" in curate("status", killed)
    found = [json.loads(line) for part in parts.glob("*.jsonl") for line in part.open()]
    done = [record["path"] for record in found if "path" in record]
    assert len(done) == 8
    # What is done is not done again: it could not be.
    for name in done:
        (images / name).unlink()
    curate("run", killed)
    assert digest(killed) == digest(whole)
