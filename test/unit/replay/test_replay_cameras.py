# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images of other kinds than ROS 2's are read, and of several topics the camera is chosen."""

import base64
import json
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.recordings import (
    CAMERA,
    COMPRESSED,
    ROS1_TYPES,
    START_NS,
    STEP_NS,
    TYPES,
    image,
    jpeg,
    raw,
    write_messages,
)

from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.protobuf import ProtobufError, protobuf_fields
from vlm_perception.replay.recordings.source import Span, open_source

FILES = [jpeg(index) for index in range(4)]
STAMPS = [START_NS + index * STEP_NS for index in range(len(FILES))]
WHOLE = Span()
GREY, NV12 = bytes(64 * 36), bytes(64 * 36 * 3 // 2)
PACKET = b"\0\0\0\1\x67" + bytes(40)


def field(number, value):
    """A field of protobuf: bytes, or a number of 32 bits."""
    if isinstance(value, int):
        return bytes([number << 3 | 5]) + struct.pack("<I", value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value):
    head = bytearray()
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def timestamp(stamp_ns):
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return b"\x08" + varint(seconds) + b"\x10" + varint(nanoseconds)


def write_mcap(file, messages, *, profile, encoding, schema, topic=CAMERA):
    """A file without chunks, as any program may write it; schema: name, encoding, definition."""
    with file.open("wb") as stream:
        writer = Writer(stream, use_chunking=False, enable_crcs=False)
        writer.start(profile=profile, library="")
        channel = writer.register_channel(topic, encoding, writer.register_schema(*schema))
        for index, data in enumerate(messages):
            time_ns = START_NS + index * STEP_NS
            writer.add_message(channel, time_ns, data, time_ns, index)
        writer.finish()
    return file


def ros1(file):
    data = [
        bytes(ROS1_TYPES.serialize_ros1(image(stamp, each, ROS1_TYPES), COMPRESSED))
        for stamp, each in zip(STAMPS, FILES, strict=True)
    ]
    text = ROS1_TYPES.generate_msgdef(COMPRESSED)[0].encode()
    schema = ("sensor_msgs/CompressedImage", "ros1msg", text)
    return write_mcap(file, data, profile="ros1", encoding="ros1", schema=schema)


def foxglove_protobuf(file):
    data = [
        field(1, timestamp(stamp)) + field(2, each) + field(3, b"jpeg") + field(4, b"camera")
        for stamp, each in zip(STAMPS, FILES, strict=True)
    ]
    schema = ("foxglove.CompressedImage", "protobuf", b"\x0a\xff\x00")
    return write_mcap(file, data, profile="", encoding="protobuf", schema=schema)


def foxglove_json(file):
    data = []
    for stamp, each in zip(STAMPS, FILES, strict=True):
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        fields = {
            "timestamp": {"sec": seconds, "nsec": nanoseconds},
            "frame_id": "camera",
            "data": base64.b64encode(each).decode(),
            "format": "jpeg",
        }
        data.append(json.dumps(fields).encode())
    schema = ("foxglove.CompressedImage", "jsonschema", b"{}")
    return write_mcap(file, data, profile="", encoding="json", schema=schema)


def foxglove_cdr(file):
    """With the fields in another order than today's definition has them."""
    name = "foxglove_msgs/msg/CompressedImage"
    text = "builtin_interfaces/Time timestamp\nuint8[] data\nstring format\nstring frame_id"
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(text, name))
    data = []
    for stamp, each in zip(STAMPS, FILES, strict=True):
        time = types.types["builtin_interfaces/msg/Time"](*divmod(stamp, 1_000_000_000))
        message = types.types[name](time, np.frombuffer(each, np.uint8), "jpeg", "camera")
        data.append(bytes(types.serialize_cdr(message, name)))
    schema = (name, "ros2msg", text.encode())
    return write_mcap(file, data, profile="ros2", encoding="cdr", schema=schema)


def foxglove_raw(file):
    data = []
    for stamp, each in zip(STAMPS, FILES, strict=True):
        pixels = cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR)
        sizes = field(2, 64) + field(3, 36) + field(5, 192)
        names = field(4, b"bgr8") + field(7, b"camera")
        data.append(field(1, timestamp(stamp)) + sizes + names + field(6, pixels.tobytes()))
    schema = ("foxglove.RawImage", "protobuf", b"")
    return write_mcap(file, data, profile="", encoding="protobuf", schema=schema)


@pytest.mark.parametrize(
    "make", [ros1, foxglove_protobuf, foxglove_json, foxglove_cdr, foxglove_raw]
)
def test_images_of_every_kind_are_read_as_those_of_ros2(make, tmp_path):
    source = open_source(make(tmp_path / "drive.mcap"))
    frames = list(source.frames(WHOLE))
    assert [frame.stamp_ns for frame in frames] == STAMPS
    for frame, file in zip(frames, FILES, strict=True):
        expected = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.array_equal(frame.pixels, expected)
        message = TYPES.deserialize_cdr(frame.message, source.camera.type_name)
        assert message.header.frame_id == frame.frame_id == "camera"
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == frame.stamp_ns
    assert source.camera.encoding == "cdr"
    assert not source.losses


def test_an_image_with_an_impossible_stamp_is_a_fault_of_its_own(tmp_path):
    stamps = [timestamp(STAMPS[0]), timestamp(2**62), b"\x08\xff"]
    data = [field(1, stamp) + field(2, FILES[0]) + field(3, b"jpeg") for stamp in stamps]
    schema = ("foxglove.CompressedImage", "protobuf", b"")
    write_mcap(tmp_path / "a.mcap", data, profile="", encoding="protobuf", schema=schema)
    message = image(0, FILES[0])
    message.header.stamp.sec, message.header.stamp.nanosec = 2**31 - 1, 2**32 - 1
    write_messages(tmp_path / "bag", {CAMERA: [image(START_NS, FILES[0]), message]})
    for recording, count in (("a.mcap", 2), ("bag", 1)):
        frames = list(open_source(tmp_path / recording).frames(WHOLE))
        assert [frame.fault for frame in frames] == ["", *["bad_message"] * count]


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_of_protobuf_or_refused(data):
    try:
        fields = protobuf_fields(data)
    except ProtobufError:
        return
    assert all(isinstance(value, int | bytes) for value in fields.values())


def compressed(file, said):
    message = image(START_NS, file)
    message.format = said
    return message


DEPTH = bytes(cv2.imencode(".png", np.full((36, 64), 1500, np.uint16))[1])
COLOUR_CAMERA = {"/rgb/image": [raw(START_NS, "nv12", NV12, step=64)] * 2}
LEFT_OUT = {
    "/depth": ([raw(START_NS, "16UC1", GREY * 2)] * 9, "16UC1, which is not a colour format"),
    "/depth/png": ([compressed(DEPTH, "16UC1; png compressed ")], "is not a colour format"),
    "/depth/rvl": ([compressed(DEPTH, "32FC1; compressedDepth png")], "is not a colour format"),
    "/odd": ([raw(START_NS, "odd9", GREY)], "the encoding 'odd9', which is not supported"),
    "/h264": ([compressed(PACKET, "h264")], "H.264 video, whose packets are not images"),
    "/unsaid": ([compressed(PACKET, "")], "video, whose packets are not images"),
}
STEREO = {
    "/left": [raw(START_NS, "mono8", GREY)] * 9,
    "/right/compressed": [compressed(jpeg(0), "mono8; jpeg compressed ")] * 9,
}


def test_a_camera_that_shows_colours_is_taken_and_the_others_are_named(tmp_path):
    others = {name: messages for name, (messages, _) in LEFT_OUT.items()}
    source = open_source(write_messages(tmp_path / "bag", COLOUR_CAMERA | STEREO | others))
    assert source.topic == "/rgb/image"
    assert [frame.pixels.shape for frame in source.frames(WHOLE)] == [(36, 64, 3)] * 2
    (note,) = (note for note in source.notes if "left out" in note)
    for name, (_, why) in LEFT_OUT.items():
        assert f"{name} (" in note
        assert why in note
    assert "/left (grey)" in note
    assert "/right/compressed (grey)" in note


def test_a_grey_camera_is_taken_where_nothing_else_can_be(tmp_path):
    topics = {"/left": STEREO["/left"], "/odd": LEFT_OUT["/odd"][0]}
    source = open_source(write_messages(tmp_path / "bag", topics))
    assert source.topic == "/left"
    assert "/odd (the encoding 'odd9', which is not supported)" in source.notes[-1]
    with pytest.raises(ReplayError, match="2 cameras"):
        open_source(write_messages(tmp_path / "stereo", STEREO))


@pytest.mark.parametrize("topic", LEFT_OUT)
def test_what_is_no_camera_is_refused_with_the_reason(topic, tmp_path):
    messages, why = LEFT_OUT[topic]
    bag = write_messages(tmp_path / "bag", {topic: messages})
    for asked in (topic, None):
        with pytest.raises(ReplayError) as refused:
            open_source(bag, asked)
        assert why in str(refused.value)
        assert topic in str(refused.value)


def video_of_foxglove(file):
    packet = field(1, timestamp(START_NS)) + field(3, PACKET) + field(4, b"h265")
    schema = ("foxglove.CompressedVideo", "protobuf", b"")
    return write_mcap(file, [packet], profile="", encoding="protobuf", schema=schema)


def video_of_ffmpeg(file):
    name = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    text = (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
        "uint8 flags\nbool is_bigendian\nuint8[] data"
    )
    types = get_typestore(Stores.ROS2_HUMBLE)
    types.register(get_types_from_msg(text, name))
    make = types.types
    header = make["std_msgs/msg/Header"](make["builtin_interfaces/msg/Time"](1, 0), "camera")
    data = np.frombuffer(PACKET, np.uint8)
    packet = make[name](header, 64, 36, "av1;yuv420p;bgr8;bgr8", 0, 1, False, data)
    data = [bytes(types.serialize_cdr(packet, name))]
    return write_mcap(
        file, data, profile="ros2", encoding="cdr", schema=(name, "ros2msg", text.encode())
    )


@pytest.mark.parametrize(
    ("make", "codec", "remedy"),
    [
        (video_of_foxglove, "H.265 video", "`ffmpeg -i FILE -c copy video.mp4`"),
        (video_of_ffmpeg, "AV1 video", "ffmpeg_image_transport_tools bag_to_file"),
    ],
)
def test_packets_of_video_are_told_from_images(make, codec, remedy, tmp_path):
    with pytest.raises(ReplayError) as refused:
        open_source(make(tmp_path / "drive.mcap"))
    said = str(refused.value)
    assert f"{CAMERA}: {codec}, whose packets are not images" in said
    assert remedy in said
    assert said.count("\n") == 1


def test_a_serialization_that_is_not_read_is_named(tmp_path):
    schema = ("foxglove.CompressedImage", "flatbuffer", b"")
    file = tmp_path / "drive.mcap"
    write_mcap(file, [b"\x10"], profile="", encoding="flatbuffer", schema=schema)
    with pytest.raises(ReplayError, match="serialized as 'flatbuffer', which is not supported"):
        open_source(file)
