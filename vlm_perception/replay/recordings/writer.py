# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The results as a bag: indexed mcap with message definitions, in parts where a run was resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, TypesysError, get_typestore

from vlm_perception.common.disk_space import check_room
from vlm_perception.messages.definitions import definition_types
from vlm_perception.messages.markers import MARKERS
from vlm_perception.messages.rosbags import message_types
from vlm_perception.messages.tables import DETAIL, EMBEDDING, EMBEDDING_INFO, REASONING, SCENE
from vlm_perception.replay.storage.types import CDR, Topic

BAG_VERSION: Literal[8] = 8
"""The newest that Iron and Jazzy both read; Jazzy's own, 9, adds nothing for our topics."""
METADATA = "metadata.yaml"
STEM = "scene"
PARTS = (f"{STEM}.mcap", f"{STEM}_[0-9]*.mcap")
"""Patterns of the files of a bag."""
RESULTS = {
    "/embedding_info": (EMBEDDING_INFO, 1, True, True),
    "/embedding": (EMBEDDING.type_name, 2, False, False),
    "/embedding/detail": (DETAIL.type_name, 2, True, False),
    "/reasoning": (REASONING.type_name, 10, True, False),
    "/scene": (SCENE.type_name, 10, True, False),
    "/scene/markers": (MARKERS, 10, True, False),
}
"""Topic: type, depth, reliable, latched; as the nodes publish them."""
INFORMATION = "rosbag2_bagfile_information"


class OutputBag:
    """Writes one part of the bag; a part becomes visible when it is whole."""

    def __init__(self, folder: Path, originals: Iterable[Topic], camera: Topic | None) -> None:
        """Begin a part beside those that are there.

        Args:
            folder: of the bag.
            originals: topics of the recording that are copied as they are.
            camera: the topic of the images, when they are copied.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder = folder
        self._work = folder / ".writing"
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        number = len(parts(folder))
        self._name = STEM if number == 0 else f"{STEM}_{number}"
        self._writer = Writer(
            self._work / self._name, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP
        )
        self._writer.open()
        self.messages = 0
        self.left_out: list[str] = []
        """Topics that could not be copied, each with the reason."""
        self._connections = {
            name: self._writer.add_connection(
                name,
                kind,
                typestore=message_types(),
                offered_qos_profiles=[qos_profile(depth, reliable, latched)],
            )
            for name, (kind, depth, reliable, latched) in RESULTS.items()
        }
        for topic in originals:
            self._copy_topic(topic)
        self._camera = camera.name if camera else ""
        if camera is not None:
            self._copy_topic(camera)

    def check_room(self) -> None:
        """Refuse to go on while there is still room to close this part.

        Raises:
            DiskFullError: there is little room left.
        """
        check_room(self._work / self._name / f"{self._name}.mcap")

    def write(self, topic: str, time_ns: int, data: bytes) -> None:
        """Write a serialized message; one of a topic that was left out is ignored."""
        connection = self._connections.get(topic)
        if connection is not None:
            self._writer.write(connection, time_ns, data)
            self.messages += 1

    def write_image(self, time_ns: int, data: bytes) -> None:
        """Write an image of the camera, when those are copied."""
        self.write(self._camera, time_ns, data)

    def close(self) -> None:
        """Put the part into its place, if it holds anything, and list it in metadata.yaml."""
        self._writer.close()
        if self.messages:
            part = self._work / self._name
            (part / f"{self._name}.mcap").replace(self._folder / f"{self._name}.mcap")
            _add_part(self._folder / METADATA, part / METADATA)
        shutil.rmtree(self._work, ignore_errors=True)

    def _copy_topic(self, topic: Topic) -> None:
        if topic.name in self._connections:
            self.left_out.append(f"{topic.name}: the replay writes a topic of that name")
            return
        if topic.encoding != CDR:
            self.left_out.append(
                f"{topic.name}: it is serialized as {topic.encoding}, not as {CDR}"
            )
            return
        try:
            self._connections[topic.name] = self._connect(topic)
        except (TypesysError, KeyError, ValueError, AssertionError):
            self.left_out.append(
                f"{topic.name}: the type {topic.type_name} is unknown, and the recording contains "
                "no readable definition of it"
            )

    def _connect(self, topic: Topic) -> Connection:
        known: dict[str, Any] = {"typestore": message_types()}
        if topic.definition:
            types = get_typestore(Stores.EMPTY)
            types.register(definition_types(topic.type_name, topic.definition))
            known = {
                "msgdef": topic.definition,
                "rihs01": topic.digest or types.hash_rihs01(topic.type_name),
            }
        return self._writer.add_connection(
            topic.name, topic.type_name, offered_qos_profiles=topic.qos, **known
        )


def parts(folder: Path) -> list[Path]:
    """The parts of the bag that are whole, in their order."""
    later = sorted(folder.glob(f"{STEM}_*.mcap"), key=lambda path: int(path.stem.split("_")[1]))
    first = folder / f"{STEM}.mcap"
    return [first, *later] if first.exists() else later


def qos_profile(depth: int, reliable: bool, latched: bool) -> Qos:
    """Quality of service as a bag holds it."""
    forever = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


def _add_part(file: Path, of_part: Path) -> None:
    """Merge the metadata.yaml of the parts so far with that of the new one."""
    new = yaml.safe_load(of_part.read_text(encoding="utf-8"))
    if not file.exists():
        of_part.replace(file)
        return
    whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    into, add = whole[INFORMATION], new[INFORMATION]
    into["relative_file_paths"] += add["relative_file_paths"]
    into["files"] += add["files"]
    into["message_count"] += add["message_count"]
    start, end = _span([into, add])
    into["starting_time"] = {"nanoseconds_since_epoch": start}
    into["duration"] = {"nanoseconds": end - start}
    counts = {_topic_name(each): each for each in into["topics_with_message_count"]}
    for each in add["topics_with_message_count"]:
        known = counts.get(_topic_name(each))
        if known is None:
            into["topics_with_message_count"].append(each)
        else:
            known["message_count"] += each["message_count"]
    temporary = file.with_suffix(".yaml.tmp")
    temporary.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    temporary.replace(file)


def _topic_name(entry: Any) -> str:
    return str(entry["topic_metadata"]["name"])


def _span(entries: Sequence[Any]) -> tuple[int, int]:
    starts = [int(each["starting_time"]["nanoseconds_since_epoch"]) for each in entries]
    lengths = [int(each["duration"]["nanoseconds"]) for each in entries]
    return min(starts), max(start + length for start, length in zip(starts, lengths, strict=True))
