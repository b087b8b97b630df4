# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A file of a recording that is read by its index; by a scan where the index leads to nothing."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import rosbags.rosbag1
import rosbags.rosbag2
from rosbags.interfaces import Connection, ConnectionExtRosbag2

from vlm_perception.replay.storage.compression import unpacked
from vlm_perception.replay.storage.types import ROS1, Message, StorageError, StorageFile, Topic


class IndexedFile:
    """A file that rosbags reads."""

    def __init__(self, path: Path, scan: Callable[[Path], StorageFile]) -> None:
        """Open the file.

        Args:
            path: an .mcap, .db3 or .bag file.
            scan: opens it without the use of its index, for what that does not lead to.

        Raises:
            Exception: of any kind, as rosbags makes nearly anything of a damaged file.
        """
        self._path, self._scan = path, scan
        self._reader: rosbags.rosbag1.Reader | rosbags.rosbag2.Reader = (
            rosbags.rosbag1.Reader(path)
            if path.suffix in (".bag", ".active")
            else rosbags.rosbag2.Reader(path)
        )
        self._reader.open()
        self.loss = ""
        try:
            self.topics = _topics(self._reader.connections)
            counted = sum(each.count for each in self.topics)
            self.start_ns = self._reader.start_time if counted else 0
            _check_types(self.topics, self.start_ns)
            if not counted or counted != self._reader.message_count:
                raise StorageError("the index of the recording is damaged")
        except BaseException:
            self._reader.close()
            raise

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Messages in the order of their times; where the file is damaged, the rest in its own."""
        connections = [each for each in self._reader.connections if each.topic in names]
        if not connections:
            return
        times: dict[str, array[int]] = defaultdict(lambda: array("q"))
        try:
            for connection, time_ns, data in self._reader.messages(connections, start_ns, stop_ns):
                if not start_ns <= time_ns < stop_ns:
                    raise StorageError("the index returns messages of other topics or times")
                times[connection.topic].append(time_ns)
                yield Message(connection.topic, time_ns, unpacked(_bytes(data)))
        # As when it is opened.
        except Exception:
            damaged = True
        else:
            whole = start_ns <= self._reader.start_time and self._reader.end_time <= stop_ns
            expected = sum(each.msgcount for each in connections)
            damaged = whole and sum(map(len, times.values())) < expected
        if damaged:
            yield from self._rest(names, start_ns, stop_ns, times)

    def _rest(
        self,
        names: Collection[str],
        start_ns: int,
        stop_ns: int,
        read: Mapping[str, Iterable[int]],
    ) -> Iterator[Message]:
        """What was not read by the index, which the damage may have hit as well."""
        known = Counter((name, time_ns) for name, times in read.items() for time_ns in times)
        file = self._scan(self._path)
        try:
            for message in file.messages(names, start_ns, stop_ns):
                place = message.topic, message.time_ns
                if known[place] > 0:
                    known[place] -= 1
                else:
                    yield message
            self.loss = file.loss
        finally:
            file.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _check_types(topics: Iterable[Topic], start_ns: object) -> None:
    """Refuse what a column of a damaged sqlite3 file gives in place of texts and times.

    Raises:
        StorageError: something is of another type.
    """
    texts = [
        each
        for topic in topics
        for each in (topic.name, topic.type_name, topic.encoding, topic.definition, topic.digest)
    ]
    if not all(isinstance(text, str) for text in texts) or not isinstance(start_ns, int):
        raise StorageError("the topics or times of the recording are damaged")


def _bytes(data: object) -> bytes:
    """The same for a message: bytes() would turn a number into that many zeros.

    Raises:
        StorageError: it is something else.
    """
    if not isinstance(data, bytes):
        raise StorageError("a message is damaged")
    return data


def _topics(connections: Iterable[Connection]) -> tuple[Topic, ...]:
    """One for each name, with the messages of all its connections."""
    topics: dict[str, Topic] = {}
    for connection in connections:
        topic = _topic(connection)
        known = topics.get(topic.name)
        count = topic.count + (known.count if known else 0)
        topics[topic.name] = replace(known or topic, count=count)
    return tuple(topics.values())


def _topic(connection: Connection) -> Topic:
    ext, rosbag2 = connection.ext, isinstance(connection.ext, ConnectionExtRosbag2)
    return Topic(
        connection.topic,
        connection.msgtype,
        ext.serialization_format if isinstance(ext, ConnectionExtRosbag2) else ROS1,
        connection.msgdef.data,
        connection.digest if rosbag2 else "",
        connection.msgcount,
        tuple(ext.offered_qos_profiles) if isinstance(ext, ConnectionExtRosbag2) else (),
    )
