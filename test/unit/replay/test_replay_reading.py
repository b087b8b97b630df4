# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever recorders leave behind is read as far as it goes, and what is lost is told."""

import bz2
import gzip
import lzma
import re
import shutil
import sqlite3

import lz4.frame
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from support import jpeg_corpora
from support.recordings import (
    CAMERA,
    COMPRESSED,
    START_NS,
    STEP_NS,
    TYPES,
    image,
    jpeg,
    write,
    write_ros1,
)
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import Span, open_source
from vlm_perception.replay.settings import load_settings

FILES = [jpeg(index) for index in range(12)]
STAMPS = [START_NS + index * STEP_NS for index in range(len(FILES))]


WHOLE = Span()


def read(path, span=WHOLE, topic=None):
    source = open_source(path, topic)
    return source, list(source.frames(span))


def split(folder):
    """A bag in two files, with the metadata of none."""
    write(folder / "a", FILES[:6], storage=StoragePlugin.SQLITE3)
    write(folder / "b", FILES[6:], storage=StoragePlugin.SQLITE3, first=6)
    (folder / "drive").mkdir()
    (folder / "a" / "a.db3").rename(folder / "drive" / "drive_9.db3")
    (folder / "b" / "b.db3").rename(folder / "drive" / "drive_10.db3")
    return folder / "drive"


def packed(suffix, pack):
    """Makes a file that was compressed by hand."""

    def make(folder):
        bag = write(folder / "bag", FILES, storage=StoragePlugin.SQLITE3)
        file = folder / f"bag.db3{suffix}"
        file.write_bytes(pack((bag / "bag.db3").read_bytes()))
        return file

    return make


def packed_in_place(folder):
    """A bag whose file was compressed by hand, and renamed."""
    bag = write(folder / "bag", FILES)
    (bag / "my drive.mcap.gz").write_bytes(gzip.compress((bag / "bag.mcap").read_bytes()))
    (bag / "bag.mcap").unlink()
    return bag


def renamed(folder):
    bag = write(folder / "f42", FILES)
    (bag / "f42.mcap").rename(bag / "drive.mcap")
    return bag


KINDS = {
    "mcap": lambda folder: write(folder / "bag", FILES),
    "mcap with compressed chunks": lambda folder: write(
        folder / "bag", FILES, compression=CompressionMode.STORAGE
    ),
    "sqlite3": lambda folder: write(folder / "bag", FILES, storage=StoragePlugin.SQLITE3),
    "compressed file": lambda folder: write(
        folder / "bag", FILES, storage=StoragePlugin.SQLITE3, compression=CompressionMode.FILE
    ),
    "compressed messages": lambda folder: write(
        folder / "bag", FILES, storage=StoragePlugin.SQLITE3, compression=CompressionMode.MESSAGE
    ),
    "file in lz4": packed(".lz4", lz4.frame.compress),
    "file in gzip": packed(".gz", gzip.compress),
    "file in bzip2": packed(".bz2", bz2.compress),
    "file in xz": packed(".xz", lzma.compress),
    "file packed in its folder": packed_in_place,
    "renamed file": renamed,
    "split, without metadata": split,
    "ROS 1": lambda folder: write_ros1(folder / "drive.bag", FILES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bag_gives_the_same_frames(kind, tmp_path):
    source, frames = read(KINDS[kind](tmp_path))
    assert source.topic == CAMERA
    assert source.expected == len(FILES)
    assert [frame.stamp_ns for frame in frames] == STAMPS
    assert [frame.time_ns for frame in frames] == STAMPS
    assert all(frame.pixels.shape == (36, 64, 3) for frame in frames)
    # The message is one of ROS 2 whatever it was.
    again = TYPES.deserialize_cdr(frames[3].message, COMPRESSED)
    assert bytes(again.data) == FILES[3]
    assert not source.losses


def test_a_part_is_taken_by_start_and_duration(tmp_path):
    _, frames = read(write(tmp_path / "bag", FILES), Span(0.25, 0.5))
    assert [frame.stamp_ns for frame in frames] == STAMPS[3:8]


@pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.STORAGE])
def test_of_a_truncated_mcap_all_before_the_break_is_used(compression, tmp_path):
    share = 0.7
    # Chunks of 1 MiB: enough images to fill several.
    files = [jpeg(index, 640, 360) for index in range(250)]
    bag = write(tmp_path / "bag", files, compression=compression)
    whole = bag / "bag.mcap"
    data = whole.read_bytes()
    whole.write_bytes(data[: int(share * len(data))])
    source, frames = read(bag)
    assert share - 0.05 < len(frames) / len(files) < share + 0.05
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(frame.pixels is not None for frame in frames)
    said = " ".join(source.losses)
    assert "is truncated" in said
    assert f"promises 250 messages but {len(frames)} can be read" in said


def test_a_sqlite3_file_that_is_being_written_is_read_with_its_log(tmp_path):
    bag = write(tmp_path / "bag", FILES[:6], storage=StoragePlugin.SQLITE3)
    recorder = sqlite3.connect(bag / "bag.db3")
    recorder.execute("PRAGMA journal_mode=WAL")
    data = bytes(TYPES.serialize_cdr(image(STAMPS[6], FILES[6]), COMPRESSED))
    rows = "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)"
    recorder.execute(rows, (STAMPS[6], data))
    recorder.commit()
    _, frames = read(bag / "bag.db3")
    assert [frame.stamp_ns for frame in frames] == STAMPS[:7]
    recorder.close()


def test_a_ros1_bag_without_index_is_scanned(tmp_path):
    bag = write_ros1(tmp_path / "drive.bag", FILES)
    data = bag.read_bytes()
    active = tmp_path / "drive.bag.active"
    active.write_bytes(data[: data.index(b"op=\x06") - 20])
    source, frames = read(active)
    assert [frame.stamp_ns for frame in frames] == STAMPS
    assert "no usable index" in source.losses[0]


def test_files_that_are_missing_or_empty_are_told(tmp_path):
    bag = split(tmp_path)
    metadata = (tmp_path / "a" / "metadata.yaml").read_text()
    listed = metadata.replace("- a.db3", "- drive_9.db3\n  - drive_10.db3\n  - drive_11.db3")
    listed = listed.replace("message_count: 6", "message_count: 18")
    (bag / "metadata.yaml").write_text(listed)
    (bag / "drive_10.db3").write_bytes(b"")
    source, frames = read(bag)
    assert [frame.stamp_ns for frame in frames] == STAMPS[:6]
    assert any("drive_11.db3 is missing" in loss for loss in source.losses)
    assert any("drive_10.db3 is empty" in loss for loss in source.losses)


def twice(folder, how):
    """A bag that holds its recording a second time."""
    bag = write(folder / "bag", FILES)
    file = bag / "bag.mcap"
    how(bag, file)
    return bag


def pack(bag, file):
    (bag / "bag.mcap.gz").write_bytes(gzip.compress(file.read_bytes()))


def pack_in_part(bag, file):
    whole = gzip.compress(file.read_bytes())
    (bag / "bag.mcap.gz").write_bytes(whole[: len(whole) // 2])


def unpack_in_part(bag, file):
    pack(bag, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pack_nothing(bag, file):
    (bag / "bag.mcap.zst").write_bytes(b"")


def convert(bag, _):
    other = write(bag / "other", FILES, storage=StoragePlugin.SQLITE3)
    (other / "other.db3").rename(bag / "bag.db3")
    shutil.rmtree(other)


def list_twice(bag, _):
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- bag.mcap", "- bag.mcap\n  - bag.mcap"))


WAYS = (
    pack,
    pack_in_part,
    unpack_in_part,
    pack_nothing,
    convert,
    list_twice,
    lambda bag, file: (bag / "later.mcap").symlink_to(file),
    lambda bag, file: shutil.copy(file, bag / "bag (copy).mcap"),
    lambda bag, _: (bag / "._bag.mcap").write_bytes(b"\0\5\x16\7" + bytes(60)),
)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("how", WAYS)
def test_what_a_folder_holds_twice_is_read_once(how, listed, tmp_path):
    bag = twice(tmp_path, how)
    if not listed:
        (bag / "metadata.yaml").unlink()
    source, frames = read(bag)
    assert [frame.stamp_ns for frame in frames] == STAMPS
    assert source.expected == len(FILES)
    assert not source.losses
    twins = [file for file in bag.iterdir() if file.name[0] not in ".m"]
    left_out = [note for note in source.notes if "left out" in note]
    assert len(left_out) == len(twins) - 1
    if left_out:
        assert any(file.name in left_out[0] for file in twins)


def test_what_is_wrong_with_an_image_stands_at_its_frame(tmp_path):
    files = [*FILES[:2], FILES[2][:-40], b"", *FILES[4:]]
    bag = write(tmp_path / "bag", files)
    source, frames = read(bag)
    assert [frame.fault for frame in frames[:5]] == ["", "", "truncated", "bad_data_length", ""]
    assert frames[2].pixels is None
    assert not source.losses


def test_images_are_read_as_the_parameters_say(tmp_path):
    whole = jpeg_corpora.whole("plain")
    filled = whole[:-2] + bytes(100) + whole[-2:]
    bag = write(tmp_path / "bag", [filled] * 8 + [whole[:9000] + whole[-5000:]])
    source, frames = read(bag)
    assert [frame.fault for frame in frames] == ["damaged"] * 9
    assert any("jpeg_padding:=accept" in note for note in source.notes)
    parameters = tmp_path / "nodes.yaml"
    parameters.write_text("/**: {ros__parameters: {jpeg_padding: accept, image_bits: 12}}")
    source = open_source(bag)
    source.images = load_settings(parameters).images
    assert source.images.image_bits == 12
    frames = list(source.frames(Span()))
    assert [frame.fault for frame in frames] == [""] * 8 + ["damaged"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("/**: {ros__parameters: {jpeg_padding: yes}}", "jpeg_padding"),
        ("/**: {ros__parameters: {jpeg_padding: maybe}}", "give refuse or accept"),
        ("[1, 2]", "'/\\*\\*' is not a section"),
        ("/**: [1, 2]", "'/\\*\\*' is not a section"),
        ("/**: {ros__parameters: 3}", "'ros__parameters' is not a section"),
        ("/**: {ros__parameters: {hazards: ['| x']}}", "not written as 'label'"),
        ("/**: {ros__parameters: {rate_hz: .nan}}", "rate_hz is nan; give a finite number"),
        ("/**: {ros__parameters: {questions: 2020-01-01}}", "valid string"),
        ("{", "not valid YAML"),
    ],
)
def test_parameters_that_cannot_be_used_are_told(tmp_path, content, sentence):
    (tmp_path / "nodes.yaml").write_text(content)
    with pytest.raises(ReplayError, match=sentence):
        load_settings(tmp_path / "nodes.yaml")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "nothing.mcap", "does not exist"),
        (packed(".zip", bytes), "is an archive; unpack it"),
        (lambda folder: KINDS["ROS 1"](folder).rename(folder / "drive"), "rename it to \\*.bag"),
        (lambda folder: KINDS["file in gzip"](folder).rename(folder / "x.gz"), r"\*\.mcap\.gz"),
        (lambda folder: write(folder / "bag", []), "contains no images"),
        (
            lambda folder: write(folder / "bag", FILES, topics=("/l", "/r")),
            "choose one with --topic",
        ),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_a_sentence(make, sentence, tmp_path):
    with pytest.raises(ReplayError, match=sentence):
        open_source(make(tmp_path))


def test_cameras_are_listed_with_counts_and_rates(tmp_path):
    bag = write(tmp_path / "bag", FILES, topics=("/left/image", "/right/image"))
    with pytest.raises(ReplayError) as refused:
        open_source(bag)
    assert "/left/image" in str(refused.value)
    assert "12 messages  10.0 Hz" in str(refused.value)
    source, frames = read(bag, topic="right/image")
    assert source.topic == "/right/image"
    assert len(frames) == len(FILES)


def test_a_bag_without_a_camera_lists_its_topics(tmp_path):
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        chatter = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=TYPES)
        text = TYPES.types["std_msgs/msg/String"](data="hello")
        writer.write(chatter, START_NS, TYPES.serialize_cdr(text, "std_msgs/msg/String"))
    with pytest.raises(ReplayError, match=r"/chatter  std_msgs/msg/String  1 messages"):
        open_source(tmp_path / "bag")


def test_an_order_of_names_counts_numbers(tmp_path):
    bag = split(tmp_path)
    assert [message.time_ns for message in Bag(bag).messages([CAMERA])] == STAMPS
    assert "metadata.yaml is missing" in Bag(bag).notes[0]
    shutil.rmtree(bag)


def test_a_time_before_all_times_is_damage(tmp_path):
    bag = KINDS["sqlite3"](tmp_path)
    data = (bag / "bag.db3").read_bytes()
    # Once in the row, once in the index.
    places = [match.start() for match in re.finditer(STAMPS[3].to_bytes(8, "big"), data)]
    for at in places:
        (bag / "bag.db3").write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
        source, frames = read(bag)
        assert all(frame.time_ns in STAMPS for frame in frames)
        assert len(frames) == len(FILES) or source.losses
    assert len(places) == 2


def test_a_bag_without_scenes_and_what_is_no_bag_cannot_be_drawn(tmp_path):
    write(tmp_path / "bag", [jpeg(0)], topics=("/image/compressed",))
    (tmp_path / "text.mcap").write_text("not a bag")
    for bag, sentence in (
        ("bag", "contains no images with scenes"),
        ("text.mcap", "cannot be read"),
    ):
        refused = CliRunner().invoke(app, ["overlay", str(tmp_path / bag)])
        assert refused.exit_code == 2
        assert sentence in " ".join(refused.output.split())
