# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Record what was observed into one mcap file that ros2 bag, Foxglove and rosbags read."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from vlm_perception.demo.topics import Topic
from vlm_perception.replay.messages import message_types
from vlm_perception.replay.output_bag import BAG_VERSION, qos_profile

_Item = tuple[Topic, int, bytes] | None


class Recorder:
    """Writes serialized messages on a thread of its own; a context manager.

    Until it ends the file is in a hidden folder, so that what stands at `bag` is whole.
    """

    def __init__(self, bag: Path, topics: Sequence[Topic]) -> None:
        """Prepare; nothing is written before the context is entered.

        Args:
            bag: The file to write, ending in .mcap; `metadata.yaml` goes beside it, which makes
                the folder a bag for those tools that take only folders.
            topics: The topics that messages will come from.
        """
        self.bag = bag
        self.messages = 0
        self._topics = tuple(topics)
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> Recorder:
        """Open the bag."""
        self._work = self.bag.parent / ".recording"
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        # The writer names the file after its folder.
        folder = self._work / self.bag.stem
        self._writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = _connect(self._writer, self._topics)
        self._thread.start()
        return self

    def put(self, topic: Topic, time_ns: int, data: bytes) -> None:
        """Take a message; returns at once."""
        self._queue.put((topic, time_ns, data))

    def check(self) -> None:
        """Raise here what went wrong on the recorder's thread, such as a full disk."""
        if self._failure is not None:
            raise self._failure

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left and put the bag into its place, unless there was no message."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        if self.messages and self._failure is None:
            folder = self._work / self.bag.stem
            (folder / f"{self.bag.stem}.mcap").replace(self.bag)
            (folder / "metadata.yaml").replace(self.bag.parent / "metadata.yaml")
        shutil.rmtree(self._work, ignore_errors=True)

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                topic, time_ns, data = item
                self._writer.write(self._connections[topic], time_ns, data)
                self.messages += 1
        except OSError as error:  # Raised again by check(), on the thread that can act.
            self._failure = error


def _connect(writer: Writer, topics: Sequence[Topic]) -> dict[Topic, Connection]:
    types = message_types()
    return {
        topic: writer.add_connection(
            topic.name if topic.name.startswith("/") else f"/{topic.name}",
            topic.type_name,
            typestore=types,
            offered_qos_profiles=[qos_profile(topic.depth, topic.reliable, topic.latched)],
        )
        for topic in topics
    }
