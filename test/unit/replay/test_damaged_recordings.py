# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Of a damaged recording all that stands before the damage is read, and what is lost is told."""

import os
import resource
import struct
from collections import Counter
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from support.recordings import COMPRESSED, ROS1_TYPES, START_NS, TYPES, image

from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import Span, open_source
from vlm_perception.replay.storage.types import Message

TOPICS = ("/left", "/right")
STEP_NS = 10_000_000
COUNT = 24
PAGE_BYTES = 4096


def messages(serialize, types, count=COUNT):
    """Images of two cameras, pairs of the same time; random bytes, which none compresses."""
    rng = np.random.default_rng(7)
    found = []
    for index in range(count):
        time_ns = START_NS + index // 2 * STEP_NS
        data = bytes(
            serialize(image(time_ns, rng.bytes(rng.integers(40, 1500)), types), COMPRESSED)
        )
        found.append(Message(TOPICS[index % 2], time_ns, data))
    return found


OF_ROS2 = messages(TYPES.serialize_cdr, TYPES)
OF_ROS1 = messages(ROS1_TYPES.serialize_ros1, ROS1_TYPES)


class Recording(NamedTuple):
    """What is damaged and what it holds."""

    bag: object
    file: object
    """The file that is damaged."""
    whole: list[Message]
    """The messages in it, in their order."""
    ends: list[int]
    """Where each message ends in the file, or its chunk, where that is packed or has a checksum."""
    cuts: list[int]
    """The same where the file is cut off: a chunk that is not packed is read message by message."""
    others: list[Message]
    """Messages of the bag's other files."""


def found_at(file, whole):
    data = file.read_bytes()
    return [data.index(each.data) + len(each.data) for each in whole]


def ends_of_chunks(chunks, whole):
    """Chunks: first and last time, and end; the last one that may hold a message counts."""
    return [
        max(end for first, last, end in chunks if first <= each.time_ns <= last) for each in whole
    ]


def mcap(folder, compression=CompressionType.NONE, **options):
    file = folder / "drive.mcap"
    with file.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=4000, compression=compression, **options)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(COMPRESSED, "ros2msg", b"uint8[] data")
        channels = {name: writer.register_channel(name, "cdr", schema) for name in TOPICS}
        for sequence, each in enumerate(OF_ROS2):
            channel = channels[each.topic]
            writer.add_message(channel, each.time_ns, each.data, each.time_ns, sequence)
        writer.finish()
    checked, packed = options.get("enable_crcs", True), compression is not CompressionType.NONE
    with file.open("rb") as stream:
        chunks = [
            (
                each.message_start_time,
                each.message_end_time,
                each.chunk_start_offset + each.chunk_length,
            )
            for each in make_reader(stream).get_summary().chunk_indexes
        ]
    ends = cuts = [] if packed else found_at(file, OF_ROS2)
    if packed or checked:
        ends = ends_of_chunks(chunks, OF_ROS2)
    return Recording(file, file, OF_ROS2, ends, cuts or ends, [])


def sqlite(folder):
    bag = folder / "drive"
    with Writer(bag, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        write(writer, OF_ROS2, TYPES)
    file = bag / "drive.db3"
    (bag / "metadata.yaml").unlink()
    data = file.read_bytes()
    # Behind its last page; the one that leads to it may be written a few pages later.
    ends = [data.index(each.data[-12:]) + 4 * PAGE_BYTES for each in OF_ROS2]
    return Recording(file, file, OF_ROS2, ends, ends, [])


def write(writer, whole, types):
    cameras = {name: writer.add_connection(name, COMPRESSED, typestore=types) for name in TOPICS}
    for each in whole:
        writer.write(cameras[each.topic], each.time_ns, each.data)


def ros1(folder, compression=None):
    file = folder / "drive.bag"
    writer = Writer1(file)
    writer.chunk_threshold = 4000
    if compression:
        writer.set_compression(compression)
    with writer:
        write(writer, OF_ROS1, ROS1_TYPES)
    if compression:
        with Reader1(file) as reader:
            infos = sorted(reader.chunk_infos)
        behind = [info.pos for info in infos[1:]] + [file.stat().st_size]
        chunks = [(i.start_time, i.end_time, end) for i, end in zip(infos, behind, strict=True)]
        ends = ends_of_chunks(chunks, OF_ROS1)
    else:
        ends = found_at(file, OF_ROS1)
    return Recording(file, file, OF_ROS1, ends, ends, [])


def in_order(records):
    """The same records of a ROS 1 bag with the fields of each head in the order of their names."""
    done, at = b"", 0
    while at < len(records):
        (length,) = struct.unpack_from("<I", records, at)
        head, fields = records[at + 4 : at + 4 + length], []
        while head:
            (size,) = struct.unpack_from("<I", head)
            fields.append(head[: 4 + size])
            head = head[4 + size :]
        at += 4 + length
        (size,) = struct.unpack_from("<I", records, at)
        body = records[at + 4 : at + 4 + size]
        if b"\x04\0\0\0op=\x05" in fields:
            body = in_order(body)
        fields.sort(key=lambda field: field[4:])
        done += struct.pack("<I", length) + b"".join(fields) + struct.pack("<I", size) + body
        at += 4 + size
    return done


def ros1_of_ros(folder):
    """As ROS itself writes it."""
    recording = ros1(folder)
    magic, records = recording.file.read_bytes().split(b"\n", 1)
    recording.file.write_bytes(magic + b"\n" + in_order(records))
    return recording


def split(folder):
    """Two files, of which the first is damaged, with metadata.yaml."""
    bag = folder / "drive"
    half = COUNT // 2
    parts = OF_ROS2[:half], OF_ROS2[half:]
    bag.mkdir()
    for number, part in enumerate(parts):
        with Writer(folder / f"{number}", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            write(writer, part, TYPES)
        (folder / f"{number}" / f"{number}.mcap").rename(bag / f"drive_{number}.mcap")
    metadata = yaml.safe_load((folder / "0" / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["drive_0.mcap", "drive_1.mcap"]
    information["message_count"] = COUNT
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    file = bag / "drive_0.mcap"
    ends = found_at(file, parts[0])
    return Recording(bag, file, parts[0], ends, ends, parts[1])


KINDS = {
    "mcap": mcap,
    "mcap, lz4": partial(mcap, compression=CompressionType.LZ4),
    "mcap, zstd": partial(mcap, compression=CompressionType.ZSTD),
    "mcap without checksums": partial(mcap, enable_crcs=False),
    "mcap, zstd without checksums": partial(
        mcap, compression=CompressionType.ZSTD, enable_crcs=False
    ),
    "mcap without chunks": partial(mcap, use_chunking=False, enable_crcs=False),
    "sqlite3": sqlite,
    "ROS 1": ros1,
    "ROS 1 of ROS": ros1_of_ros,
    "ROS 1, bz2": partial(ros1, compression=Writer1.CompressionFormat.BZ2),
    "ROS 1, lz4": partial(ros1, compression=Writer1.CompressionFormat.LZ4),
    "split bag": split,
}
CHECKED = ("mcap", "mcap, lz4", "mcap, zstd")
EXAMPLES = 60
MOST_MEMORY = 1 << 28


def read(bag):
    """All messages, and what is said to be lost; none of a recording that is refused."""
    try:
        recording = Bag(bag)
    except ReplayError as error:
        return [], [str(error)]
    names = [topic.name for topic in recording.topics]
    return list(islice(recording.messages(names), 10 * COUNT)), recording.losses


def frames(bag):
    """The images of one camera as replay sees them; none of a recording that is refused."""
    try:
        return list(open_source(bag, TOPICS[0]).frames(Span()))
    except ReplayError:
        return []


WAYS = {
    "cut off": lambda _, rng: None,
    "bit": lambda old, rng: bytes([old[0] ^ 1 << rng.integers(8)]),
    "byte": lambda old, rng: rng.bytes(1),
    "length": lambda old, rng: (1 << int(rng.integers(63))).to_bytes(8, "little"),
    "cut out": lambda old, rng: b"",
    "zeros": lambda old, rng: bytes(len(old)),
    "noise": lambda old, rng: rng.bytes(len(old)),
}


def damaged(data, way, at, length, seed):
    """The file with other bytes from a place on."""
    old = data[at : at + length]
    new = WAYS[way](old, np.random.default_rng(seed))
    if new is None:
        return data[:at]
    return data[:at] + new + data[at + (length if way == "cut out" else len(new)) :]


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_before_the_damage_is_read_exactly(kind, tmp_path):
    recording = KINDS[kind](tmp_path)
    data = recording.file.read_bytes()
    found, losses = read(recording.bag)
    assert found == recording.whole + recording.others
    assert not losses
    memory = peak_bytes()
    # Records begin where messages end.
    places = [max(end - 40, 0) for end in recording.ends]

    @given(
        st.sampled_from(list(WAYS)),
        st.integers(0, len(data)) | st.sampled_from(places),
        st.integers(0, 80),
        st.integers(1, 3000),
        st.integers(0, 1 << 32),
    )
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    def holds(way, place, shift, length, seed):
        at = (place + shift) % len(data)
        recording.file.write_bytes(damaged(data, way, at, length, seed))
        ends = recording.cuts if way == "cut off" else recording.ends
        before = [each for each, end in zip(recording.whole, ends, strict=True) if end <= at]
        whole = Counter(recording.whole + recording.others)
        read_once, losses = read(recording.bag)
        found = Counter(read_once)
        assert Counter(before + recording.others) <= found
        assert all(found[each] <= count for each, count in whole.items())
        assert losses or found.total() >= whole.total()
        if kind in CHECKED or way == "cut off":
            assert found <= whole
        stamps = [each.time_ns for each in before if each.topic == TOPICS[0]]
        assert Counter(stamps) <= Counter(frame.time_ns for frame in frames(recording.bag))

    holds()
    assert peak_bytes() - memory < MOST_MEMORY


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite3"])
def test_damage_costs_no_more_than_it_hits(kind, tmp_path):
    recording = KINDS[kind](tmp_path)
    data = recording.file.read_bytes()
    together = max(Counter(recording.ends).values())
    for end in sorted(set(recording.ends))[:-2]:
        at = end - 20
        recording.file.write_bytes(data[:at] + b"\xff" * 60 + data[at + 60 :])
        found, losses = read(recording.bag)
        lost = len(recording.whole + recording.others) - len(found)
        assert lost <= 2 * together
        assert recording.whole[-1] in found
        assert losses or not lost
        if kind in CHECKED:
            assert lost
            assert f"{lost} of {COUNT} messages are missing" in losses[0]


def test_a_damaged_page_costs_its_rows(tmp_path):
    whole = [Message("/left", START_NS + n, n.to_bytes(8, "big") * 40) for n in range(200)]
    bag = tmp_path / "drive"
    with Writer(bag, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        write(writer, whole, TYPES)
    file = bag / "drive.db3"
    data = file.read_bytes()
    page = data.index(whole[100].data) // PAGE_BYTES * PAGE_BYTES
    file.write_bytes(data[:page] + bytes(8) + data[page + 8 :])
    found, losses = read(file)
    lost = len(whole) - len(found)
    assert 0 < lost <= PAGE_BYTES // len(whole[0].data)
    assert whole[100] not in found
    assert found == [each for each in whole if each in found]
    assert f"{lost} message(s) cannot be read" in losses[0]


def test_a_loss_is_told_once(tmp_path):
    recording = mcap(tmp_path)
    recording.file.write_bytes(recording.file.read_bytes()[:-2000])
    bag = Bag(recording.bag)
    assert "still being recorded" in bag.losses[0]
    os.utime(recording.file, (0, 0))
    list(bag.messages(TOPICS))
    assert len(bag.losses) == 1
    assert "a copy was interrupted" in bag.losses[0]
