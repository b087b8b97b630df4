# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is odd in a source costs at most that image, and what became stale is told."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from rich.console import Console
from support.curation import curate, lines, prepare, saved, tar_of
from support.recordings import jpeg, write

from vlm_perception.common.disk_space import DiskFullError
from vlm_perception.common.errors import RunError
from vlm_perception.curation import run, stage_folder
from vlm_perception.curation.engine import Engine
from vlm_perception.curation.image_files import encoded, usable_image
from vlm_perception.curation.json_lines import DamagedError
from vlm_perception.curation.quality.retrieval_check import read_check
from vlm_perception.curation.sources import raw, tar_images
from vlm_perception.curation.tasks import Tasks
from vlm_perception.curation.unfinished import UNFINISHED, end_stage
from vlm_perception.media.image_errors import ImageError
from vlm_perception.outputs import durable

CURATION = "vlm_perception.curation"
PART_NAME = "parts/00000000-000000.jsonl"


def plain(value=0):
    return saved(PIL.Image.new("RGB", (240, 240), (value, 90, 30)), "PNG")


@pytest.mark.parametrize("year", ["0001", "2263"])
def test_a_stamp_that_no_64_bits_hold_is_none(tmp_path, year):
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"{year}:01:01 00:00:00"
    (tmp_path / "a.png").write_bytes(saved(PIL.Image.new("RGB", (240, 240)), "PNG", exif=exif))
    (tmp_path / "b.png").write_bytes(plain())
    harvest = [
        {"file_name": "a.png", "text": "", "stamp": 10**30},
        {"file_name": "b.png", "text": "", "stamp": True},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, harvest)))
    folder = prepare(tmp_path / "set", {"kind": "harvest", "path": ".."})
    curate("run", folder)
    assert [each.get("stamp_ns") for each in lines(folder, "00_raw", "kept")] == [None, None]


def test_a_frame_that_pillow_refuses_is_written_anew(tmp_path):
    file = jpeg(1, 320, 240)
    odd = file[:2] + b"\xff\xe0\x00\x06JFIF" + file[4 + int.from_bytes(file[4:6], "big") :]
    write(tmp_path / "drive", [jpeg(0, 320, 240), odd])
    source = {"kind": "recording", "path": "../drive", "rate_hz": 100.0}
    folder = prepare(tmp_path / "set", source)
    curate("run", folder, "--to", "00_raw")
    assert [each["changed"] for each in lines(folder, "00_raw", "kept")] == [
        [],
        ["written as JPEG"],
    ]


def test_every_image_of_a_tar_has_a_record(tmp_path):
    members = [
        ("frame.0001.jpg", plain(1)),
        ("frame.0001.txt", b"the first"),
        ("frame.0002.jpg", plain(2)),
        ("a.jpg", plain(3)),
        ("a.png", b"no image"),
        ("a.png", plain(4)),
        ("a.json", json.dumps({"caption": ["a bus", "a red bus"]}).encode()),
        ("b.png", plain(5)),
        ("b.json", json.dumps({"caption": {"en": 1}}).encode()),
        ("c.png", plain(6)),
        ("c.json", b"{"),
    ]
    tar_of(tmp_path / "train[1].tar", members)
    folder = prepare(tmp_path / "set", {"kind": "webdataset", "path": "../train[1].tar"})
    curate("run", folder, "--to", "00_raw")
    kept = lines(folder, "00_raw", "kept")
    told = [
        (each["path"].split("/")[1], [caption["text"] for caption in each.get("captions", [])])
        for each in kept
    ]
    assert told == [
        ("frame.0001.jpg", ["the first"]),
        ("frame.0002.jpg", []),
        ("a.jpg", ["a bus", "a red bus"]),
        ("a.png", ["a bus", "a red bus"]),
        ("b.png", []),
        ("c.png", []),
    ]
    assert ["notes" in each for each in kept] == [False] * 4 + [True] * 2
    assert [each["path"] for each in lines(folder, "00_raw", "failed")] == ["train[1].tar/a.png"]


def test_what_is_no_text_is_left_out_of_captions_and_escaped_elsewhere(tmp_path):
    odd, name = "\udcff", os.fsdecode(b"\xff.png")
    described = {"caption": [f"a {odd}", "a bus"], "license": odd}
    members = [(name, plain(1)), (f"{name[:-4]}.json", json.dumps(described).encode())]
    members += [("b.png", plain(60)), ("b.txt", b"a \xff")]
    tar_of(tmp_path / os.fsdecode(b"\xfe.tar"), members)
    images = tmp_path / "images"
    images.mkdir()
    (images / "c.png").write_bytes(plain(200))
    coco = {
        "images": [{"id": 1, "file_name": "c.png"}],
        "annotations": [{"image_id": 1, "caption": text} for text in (odd, "a car")],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    sources = [
        {"kind": "webdataset", "path": "../*.tar", "language": "en"},
        {"kind": "coco", "path": "../coco.json", "images": "../images"},
    ]
    folder = prepare(tmp_path / "set", *sources, phash_distance=None)
    curate("run", folder)
    kept = {each["id"]: each for each in lines(folder, "04_final", "kept")}
    told = [[each["text"] for each in kept[n].get("captions", ())] for n in sorted(kept)]
    assert told == [["a bus"], [], ["a car"]]
    assert [len(kept[n].get("notes", ())) for n in sorted(kept)] == [1, 1, 1]
    assert kept[0]["path"] == "\\udcfe.tar/\\udcff.png"
    assert kept[0]["licence"] == "\\udcff"


def test_what_was_read_before_a_tar_ends_is_kept(tmp_path):
    tar_of(tmp_path / "a.tar", [("a.png", plain()), ("a.json", b" " * 5000)])
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: content.index(b" " * 99) + 1000])
    image, fault = tar_images.tar_images(tmp_path / "a.tar", "en")
    assert image.file == plain()
    assert "end" in fault


def test_a_tar_whose_header_would_take_the_memory_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x" * (2 << 20)))
    (found,) = tar_images.tar_images(tmp_path / "a.tar.gz", "en")
    assert "header" in found


def test_a_full_disk_is_no_fault_of_a_tar(tmp_path, monkeypatch):
    def full(file):
        raise DiskFullError("full")

    tar_of(tmp_path / "a.tar", [("a.png", plain())])
    monkeypatch.setattr(durable, "check_room", full)
    task = {"kind": "tar", "path": str(tmp_path / "a.tar"), "language": "", "source": 0}
    with pytest.raises(DiskFullError):
        next(raw.do_raw({**task, "licence": ""}, tmp_path, None))


def test_what_jpeg_cannot_hold_is_an_error():
    with pytest.raises(ImageError, match="65501x1"):
        encoded(np.zeros((1, 65_501, 3), np.uint8), ())


def test_values_of_other_depths_are_told_or_refused():
    deep = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint16))[1].tobytes()
    assert usable_image(deep).changed == ("16 bits reduced to 8",)
    for values in (np.ones((8, 8), np.float32), np.full((8, 8), 1 << 20, np.int32)):
        with pytest.raises(ImageError, match="8 or 16 bits"):
            usable_image(saved(PIL.Image.fromarray(values), "TIFF"))


def test_losses_at_the_end_of_a_part_are_told_once(tmp_path, monkeypatch):
    write(tmp_path / "drive", [jpeg(0, 320, 240)])
    monkeypatch.setattr("vlm_perception.curation.tasks.RECORDS_A_PART", 2)

    class Lossy:
        losses = ("one", "two", "three")

        def frames(self, span, skip):
            return iter(())

    monkeypatch.setattr(raw, "open_source", lambda *_: Lossy())
    task = {"kind": "recording", "path": "drive", "rate_hz": 1.0, "topic": None, "key_frames": None}
    tasks = Tasks(tmp_path)
    tasks.write([{**task, "source": 0, "licence": ""}])
    tasks.do(0, raw.do_raw)
    # Killed after its first part.
    (tmp_path / "parts" / "00000000-000001.jsonl").unlink()
    tasks.do(0, raw.do_raw)
    assert [each["reason"] for each in tasks.records()] == ["one", "two", "three"]


def test_an_old_stage_is_whole_until_the_new_one_stands(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_perception.outputs.swap.exchanged", lambda *_: False)
    for name in ("old", "work/stage"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "which").write_text(name)
    stage_folder.put_in_place(tmp_path / "work/stage", tmp_path / "old")
    assert (tmp_path / "old/which").read_text() == "work/stage"
    assert (tmp_path / "work/old/which").read_text() == "old"


def test_an_error_of_a_worker_is_that_of_the_run(monkeypatch):
    class Rows:
        def from_items(self, rows, **_):
            self.rows = rows
            return self

        def map(self, call):
            self.call = call
            return self

        def iter_rows(self):
            try:
                yield from map(self.call, self.rows)
            except Exception as error:
                # As Ray does.
                raise ValueError from error

    def fail(number):
        raise DiskFullError("full")

    monkeypatch.setattr(Engine, "_ray_data", lambda self: Rows())
    with pytest.raises(RunError, match="full"):
        list(Engine(2).done(fail, [1]))


def test_changed_sources_and_stale_stages_are_told(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(plain())
    (images / os.fsdecode(b"\xff.jpg")).write_bytes(b"no image")
    source = {"kind": "folder", "path": "../images"}
    folder = prepare(tmp_path / "set", source)
    curate("run", folder)
    assert "changed" not in curate("run", folder) + curate("status", folder)
    curate("report", folder)
    assert "\\udcff.jpg" in (folder / "report.html").read_text()
    (images / "b.png").write_bytes(plain(200))
    assert "sources have changed" in curate("run", folder)
    assert "stale: sources have changed" in curate("status", folder)
    curate("run", folder, "--redo", "00_raw", "--to", "00_raw")
    assert "01_filtered is left out" in curate("report", folder)
    curate("run", folder, "--redo", "01_filtered")
    prepare(folder, {**source, "camera": "front"})
    assert "00_raw is left out" in curate("report", folder, code=2)
    images.rename(tmp_path / "gone")
    prepare(folder, source)
    assert "stale" not in curate("status", folder)


def test_a_list_of_captions_that_is_gone_does_not_stop_what_is_complete(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(plain())
    listed = tmp_path / "images" / "captions.jsonl"
    listed.write_text(json.dumps({"image": "a.png", "captions": ["a wall"]}))
    folder = prepare(tmp_path / "set", {"kind": "captions", "path": "../images"})
    curate("run", folder)
    listed.write_text("{")
    assert "04_final: complete" in curate("run", folder)
    listed.unlink()
    assert "stale" not in curate("status", folder)


def test_damage_to_what_the_program_wrote_is_one_sentence_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for value in (0, 60, 120):
        (tmp_path / "images" / f"{value}.png").write_bytes(plain(value))
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"}, phash_distance=None)
    command = ("run", folder, "--to", "01_filtered")
    curate(*command)
    kept = folder / "00_raw" / "kept.jsonl"
    whole = kept.read_bytes()
    (folder / "times.json").write_text("[1]")
    curate("report", folder)
    for damaged in (whole[: whole.index(b"\n") + 1], whole[:-20], b""):
        kept.write_bytes(damaged)
        for words in ((*command, "--redo", "01_filtered"), ("report", folder)):
            assert "make it again with --redo 00_raw" in curate(*words, code=2)
    curate(*command, "--redo", "00_raw")
    assert kept.read_bytes() == whole
    unfinished = folder / ".unfinished"
    with monkeypatch.context() as at:
        at.setattr(f"{CURATION}.run._finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.run(folder, run.Options("01_filtered", "00_raw"), Console())
    part, task = (unfinished / name for name in (PART_NAME, "tasks/00000000.json"))
    was = part.read_bytes()
    for damaged in (b"[1]", was[:9], was[: was.rindex(b"\n", 0, -1) + 1]):
        part.write_bytes(damaged)
        assert f"remove {unfinished}" in curate(*command, code=2)
    part.unlink()
    was = task.read_bytes()
    for damaged in (b"", was[:9], was + was):
        task.write_bytes(damaged)
        assert f"remove {unfinished}" in curate(*command, code=2)
    (unfinished / "listed.json").write_text("[")
    curate(*command)
    (folder / "03_quality_checked").mkdir()
    (folder / "03_quality_checked" / "retrieval.json").write_text("[")
    with pytest.raises(DamagedError, match="with --redo 03_quality_checked"):
        read_check(folder)


def test_what_another_version_has_begun_is_begun_again(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(plain())
    folder = prepare(tmp_path / "set", {"kind": "folder", "path": "../images"})
    with monkeypatch.context() as patch:
        patch.setattr(f"{CURATION}.unfinished.code_digest", lambda *_: "older")
        patch.setattr(f"{CURATION}.run.put_in_place", lambda *_: 1 / 0)
        curate("run", folder, code=1)
    (tmp_path / "images" / "b.png").write_bytes(plain(200))
    curate("run", folder, "--to", "00_raw")
    assert len(lines(folder, "00_raw", "kept")) == 2


@pytest.mark.parametrize("path", ["../**.tar", "/", "../*.gone"])
def test_a_pattern_that_names_no_tar_is_one_sentence(tmp_path, path):
    folder = prepare(tmp_path / "set", {"kind": "webdataset", "path": path})
    assert curate("run", folder, code=2).startswith("error: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--redo", "01_filtered", "--to", "00_raw"),
        ("--workers", "8", "--ray-address", "127.0.0.1:1"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, options):
    assert options[0] in curate("run", tmp_path, *options, code=2)


def test_what_cannot_be_opened_fails_alone(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(plain())
    (tmp_path / "images" / "locked").symlink_to("/locked")
    (tmp_path / "drive").mkdir()
    is_dir, iterdir = Path.is_dir, Path.iterdir

    def locked(method):
        def called(path, *arguments):
            if path.name in ("locked", "drive") and (method is iterdir or path.is_symlink()):
                raise PermissionError(13, "Permission denied")
            return method(path, *arguments)

        return called

    # The superuser may open anything.
    monkeypatch.setattr(Path, "is_dir", locked(is_dir))
    monkeypatch.setattr(Path, "iterdir", locked(iterdir))
    sources = {"kind": "folder", "path": "../images"}, {"kind": "recording", "path": "../drive"}
    folder = prepare(tmp_path / "set", *sources)
    curate("run", folder)
    failed = {each["path"]: each["reason"] for each in lines(folder, "00_raw", "failed")}
    assert failed.keys() == {"locked", "drive"}
    assert all("Permission denied" in reason for reason in failed.values())


def test_the_end_of_a_stage_leaves_folders_of_a_user_alone(tmp_path):
    for name in ("tasks", "parts", "mine"):
        (tmp_path / UNFINISHED / name).mkdir(parents=True)
    end_stage(tmp_path)
    assert [each.name for each in (tmp_path / UNFINISHED).iterdir()] == ["mine"]
