# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Published messages do not change, and recordings of any version are read, or refused by name."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.places import DATA, ROOT
from support.ros_graph import BEST_EFFORT, Graph, wait_until
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.definitions import layout, reader
from vlm_perception.messages.rosbags import message_types
from vlm_perception.messages.tables import EMBEDDING, REASONING, SCENE
from vlm_perception.msg import SceneReasoning, SemanticScene, VisionEmbedding
from vlm_perception.replay.compare.comparable import read_outputs
from vlm_perception.replay.recorded_schedule import read_schedule
from vlm_perception.replay.recordings.bag import Bag

RECORDED = DATA / "recorded"
"""Results of the first six frames of `drive`, as they were published."""
RIHS01 = {
    "Attribute": "a8dbd2dbcd2e71ae34e2ce31d7eeada7225d639f974d7c29ad7f1a2917d45e34",
    "EmbeddingInfo": "9c18e4d4844cd8e411f0224a356b6e31fa256d5d91a27f502545b476b7b97b7d",
    "FrameDetail": "4c494f478f532938122dad857dd54a597298678aecf347bc033fce5536576c0f",
    "FrameRequest": "4f395bf1f11a282149bfdfd4a43c457d0e5d1bd7a0efce9ab7915a205e80c916",
    "LocatedObject": "eb49308aa8a2cb0e61ce55e20422e977413cf004b0e8014150080585ec74ad46",
    "LocatedObjects": "ea2313290d1d3165d58acc7650f46430636be29e12ed786c05fc62ca7ee3cb51",
    "Region": "e590ad014498075e38f34ee89b0b439b2cc2d276c3beed0825ce7757e53adbe0",
    "SceneReasoning": "5b56112dbcdfd07c8fe9ef6f7458578480c7e9d13dc8c6b948d9b36c0c1ba621",
    "SemanticScene": "6e1a26811aa279b5d34532fdf9f3c90cfff685957c39b963361fc3b702926a6e",
    "StageTime": "8701c180f95e9bc4d085734256e7b0bad1cc50a353d062e7d14de168070eacf9",
    "Tag": "cbed850b67bf9fb43e98ecb75dfc754c6b483e5460ecee2a145a70ff9ab66dc2",
    "Tensor": "89c916ea72cf051f4c82df2559b59ea394b3ee8df00755fe84f2a70e35e86984",
    "VisionEmbedding": "c9002a6613703855f9b3dd258df7f09583432cd9bda90b9e9814b2b0a304976e",
}
"""What ROS 2 tells versions of a type apart by. A new message comes in here; none is changed."""
CAPTION = (
    "a rainy dusk on a curved road with several cars, a motorcycle, a bicycle, a red traffic light "
    "and a barrier"
)


def recorded(type_name: str) -> list[bytes]:
    with Reader(RECORDED) as bag:
        return [bytes(data) for each, _, data in bag.messages() if each.msgtype == type_name]


def types_with(type_name: str, old: str, new: str) -> Any:
    """The package's types with one of them changed."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for file in (ROOT / "msg").glob("*.msg"):
        name = f"vlm_perception/msg/{file.stem}"
        text = file.read_text()
        if name == type_name:
            assert old in text
            text = text.replace(old, new)
        types.register(get_types_from_msg(text, name))
    return types


def emptied(types: Any, type_name: str) -> Any:
    """A message of zeros."""
    blank = {"string": "", "bool": False, "float32": 0.0}
    fields = {}
    for name, (node, detail) in types.fielddefs[type_name][1]:
        if node == 2:
            fields[name] = emptied(types, detail)
        elif node == 1:
            fields[name] = blank.get(detail[0], 0)
        else:
            fields[name] = []
    return types.types[type_name](**fields)


def test_no_published_message_has_changed() -> None:
    types = message_types()
    now = {
        name.rpartition("/")[2]: types.hash_rihs01(name).removeprefix("RIHS01_")
        for name in types.fielddefs
        if name.startswith("vlm_perception/")
    }
    changed = [name for name, digest in RIHS01.items() if now.get(name) != digest]
    assert not changed, "readers hold their old fields: leave them, and make a new message"
    assert set(now) == set(RIHS01), "put the hash of a new message here when it is published"


def test_what_was_recorded_is_read() -> None:
    said, schedule = read_outputs(RECORDED), read_schedule(RECORDED)
    assert said.whole and not schedule.losses
    assert len(said.frames) == len(schedule.encoded) == len(schedule.ticks) == 6
    assert [each["caption"] for each in said.frames.values()] == ["", *[CAPTION] * 5]
    assert list(said.frames.values())[-1]["attributes"]["traffic_light"][0] == "red"
    embedding = EMBEDDING.read(reader(EMBEDDING.type_name)(recorded(EMBEDDING.type_name)[2]))
    assert (embedding.sequence, embedding.tags[0].label) == (2, "rain")
    assert len(embedding.tokens) == len(embedding.token_index)


def test_what_was_recorded_is_taken_by_the_nodes(graph: Graph) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    graph.start("scene_fusion")
    graph.start("language_reasoner", "scene:=other", bundle="roadworld-nano")
    scenes = graph.listen(SemanticScene, "scene")
    reasonings = graph.listen(SceneReasoning, "reasoning")
    for name in ("scene_fusion", "language_reasoner"):
        graph.wait_active(name)
    publisher = graph.publisher(VisionEmbedding, "embedding", BEST_EFFORT)
    wait_until("both readers", lambda: publisher.get_subscription_count() == 2)
    digest = EMBEDDING.read(reader(EMBEDDING.type_name)(recorded(EMBEDDING.type_name)[0]))
    for data in recorded(EMBEDDING.type_name):
        # As of the bundle of today, which may be another; the layout stays the same.
        publisher.publish(data.replace(digest.bundle_digest.encode(), bundle.digest.encode()))
        time.sleep(0.2)
    scene = scenes.wait(lambda each: each.sequence and each.caption)
    assert scene.tags[0].label == "rain" and scene.regions
    assert reasonings.wait(lambda each: each.is_keyframe).caption


EARLIER_TYPE = REASONING.type_name


def earlier_reasoning() -> tuple[bytes, str, str]:
    """A reasoning as it was before vocabulary_version: bytes, definition and hash."""
    types = types_with(EARLIER_TYPE, "uint32 vocabulary_version\n", "")
    message = emptied(types, EARLIER_TYPE)
    message.header.stamp.sec, message.caption, message.rung = 7, "a wet road", 3
    definition, _ = types.generate_msgdef(EARLIER_TYPE, ros_version=2)
    data = bytes(types.serialize_cdr(message, EARLIER_TYPE))
    return data, definition, types.hash_rihs01(EARLIER_TYPE)


@pytest.mark.parametrize("tells", ["definition", "hash", "nothing", "noise"])
def test_a_recording_of_an_earlier_version_is_read(tells: str) -> None:
    data, definition, digest = earlier_reasoning()
    known = {
        "definition": (definition, digest),
        "hash": ("", digest),
        "nothing": ("", ""),
        "noise": ("uint32[ what", digest),
    }[tells]
    reasoning = REASONING.read(reader(EARLIER_TYPE, *known)(data))
    assert (reasoning.caption, reasoning.rung, reasoning.stamp_ns) == ("a wet road", 3, 7 * 10**9)
    assert reasoning.vocabulary_version == 0


@pytest.mark.parametrize("path", layout(message_types(), SCENE.type_name))
def test_a_recording_that_lacks_a_field_is_refused_by_its_name(path: str) -> None:
    field = path.split(".", maxsplit=1)[0].removesuffix("[]")
    lines = (ROOT / "msg" / "SemanticScene.msg").read_text().splitlines(keepends=True)
    (line,) = [each for each in lines if each.endswith(f" {field}\n") and each[0] != "#"]
    types = types_with(SCENE.type_name, line, "")
    definition, _ = types.generate_msgdef(SCENE.type_name, ros_version=2)
    with pytest.raises(MessageError, match=f"no {field}"):
        reader(SCENE.type_name, definition)


def bag_of(folder: Path, types: Any, type_name: str, data: bytes, storage: StoragePlugin) -> Path:
    with Writer(folder, version=8, storage_plugin=storage) as writer:
        writer.write(writer.add_connection("/topic", type_name, typestore=types), 1, data)
    return folder


def test_a_bag_without_definitions_is_read_by_what_fits(tmp_path: Path) -> None:
    types = types_with(EARLIER_TYPE, "uint32 vocabulary_version\n", "")
    message = emptied(types, EARLIER_TYPE)
    message.is_keyframe, message.trigger = True, "drift"
    data = bytes(types.serialize_cdr(message, EARLIER_TYPE))
    bag = bag_of(tmp_path / "bag", types, EARLIER_TYPE, data, StoragePlugin.SQLITE3)
    with sqlite3.connect(bag / "bag.db3") as base:
        base.execute("DELETE FROM message_definitions")
        base.execute("UPDATE topics SET type_description_hash = ''")
    (bag / "metadata.yaml").unlink()
    (topic,) = Bag(bag).topics
    assert (topic.definition, topic.digest) == ("", "")
    (read,) = [reader(*topic.type)(each.data) for each in Bag(bag).messages(["/topic"])]
    assert (read.is_keyframe, read.trigger, read.vocabulary_version) == (True, "drift", 0)


@pytest.mark.parametrize("storage", StoragePlugin)
def test_a_bag_is_read_by_its_own_definition(tmp_path: Path, storage: StoragePlugin) -> None:
    more = types_with("vlm_perception/msg/Tag", "float32 score", "float64 weight\nfloat32 score")
    scene = emptied(more, SCENE.type_name)
    tag = more.types["vlm_perception/msg/Tag"](label_index=3, label="car", weight=9.0, score=0.5)
    scene.tags, scene.caption, scene.bundle_digest = [tag, tag], "a car", "ab"
    data = bytes(more.serialize_cdr(scene, SCENE.type_name))
    (frame,) = read_outputs(
        bag_of(tmp_path / "more", more, SCENE.type_name, data, storage)
    ).frames.values()
    assert (frame["caption"], frame["tags"]) == ("a car", {"car": 0.5})

    other = types_with("vlm_perception/msg/Tag", "float32 score", "float64 score")
    scene = emptied(other, SCENE.type_name)
    data = bytes(other.serialize_cdr(scene, SCENE.type_name))
    bag = bag_of(tmp_path / "other", other, SCENE.type_name, data, storage)
    result = CliRunner().invoke(app, ["compare", str(bag), str(bag)])
    assert result.exit_code == 2
    assert "tags[].score as float64 and not float32" in " ".join(result.output.split())


def test_a_layout_that_does_not_fit_ends_no_node(graph: Graph) -> None:
    fusion = graph.start("scene_fusion")
    graph.wait_active("scene_fusion")
    scenes = graph.listen(SemanticScene, "scene")
    publisher = graph.publisher(VisionEmbedding, "embedding", BEST_EFFORT)
    good = recorded(EMBEDDING.type_name)[0]
    kind = EMBEDDING.type_name
    lines = [f"{each}\n" for each in ("uint64 sequence", "Tensor pooled", "uint32 image_width")]
    for line in lines:
        types = types_with(kind, line, "")
        message = message_types().deserialize_cdr(good, kind)
        own = types.types[kind](**{f: v for f, v in vars(message).items() if f"{f}\n" not in line})
        publisher.publish(bytes(types.serialize_cdr(own, kind)))
        time.sleep(0.1)
    publisher.publish(good[:300])
    publisher.publish(good)
    scenes.wait(lambda each: each.tags)
    fusion.stop()
