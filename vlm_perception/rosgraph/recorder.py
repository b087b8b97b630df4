# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Record what was observed into one mcap file that ros2 bag, Foxglove and rosbags read."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter

from vlm_perception.common.disk_space import DiskFullError, check_room
from vlm_perception.messages.rosbags import message_types
from vlm_perception.replay.recordings.writer import BAG_VERSION, qos_profile
from vlm_perception.rosgraph.topics import Topic

_Item = tuple[Topic, int, bytes] | None
ROOM_CHECKED_EVERY_S = 0.2
"""Also while no message comes: others may fill the disk."""
KEPT_EVERY_S = 1.0
"""A program that is killed loses no more of its recording than this."""


class Recorder:
    """Writes serialized messages on a thread of its own; a context manager.

    Until it ends the file is in a hidden folder, so that the one at `bag` is complete; what came
    more than a second ago is in that file, whatever becomes of the program. When the
    disk is full it stops writing, `failure` says so, and what was written until then is a complete
    bag; the threads that put messages are not disturbed.
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
        self.failure = ""
        """Why the recording ended early; empty when it did not."""
        self.torn = False
        """Whether the bag lacks its end, so that not every program reads it."""
        self._topics = tuple(topics)
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        """Open the bag.

        Raises:
            OSError: the folder cannot be written, or has no room.
        """
        self.bag.parent.mkdir(parents=True, exist_ok=True)
        check_room(self.bag)
        self._work = self.bag.parent / ".recording"
        self._work.mkdir()
        # The writer names the file after its folder.
        folder = self._work / self.bag.stem
        self._writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = _connect(self._writer, self._topics)
        self._thread.start()
        return self

    def put(self, topic: Topic, time_ns: int, data: bytes) -> None:
        """Take a message; returns at once."""
        if not self.failure:
            self._queue.put((topic, time_ns, data))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left and put the bag into its place, unless there was no message."""
        self._queue.put(None)
        self._thread.join()
        if self.torn:
            self._writer.abort()
        else:
            self._writer.close()
        if self.messages:
            for file in (self._work / self.bag.stem).iterdir():
                file.replace(self.bag.parent / file.name)
        shutil.rmtree(self._work, ignore_errors=True)

    def _run(self) -> None:
        file = self._work / self.bag.stem / f"{self.bag.stem}.mcap"
        kept = time.monotonic()
        try:
            while True:
                check_room(file)
                if time.monotonic() - kept >= KEPT_EVERY_S:
                    _hand_over(self._writer)
                    kept = time.monotonic()
                try:
                    item = self._queue.get(timeout=ROOM_CHECKED_EVERY_S)
                except Empty:
                    continue
                if item is None:
                    return
                topic, time_ns, data = item
                self._writer.write(self._connections[topic], time_ns, data)
                self.messages += 1
        except DiskFullError as error:
            self._fail(str(error))
        except OSError as error:
            # There may be a partial record at the end; anything after it could not be read.
            self.torn = True
            self._fail(
                f"{error}; the bag has no index, `mcap recover` makes one, "
                "`vlm-perception replay` reads it as it is"
            )

    def _fail(self, text: str) -> None:
        self.failure = text
        while not self._queue.empty():
            self._queue.get()


def keep_recordings(work: Path, folder: Path) -> list[Path]:
    """Move the recordings that a run has left in its work to `folder`, under names of their own.

    Args:
        work: where the run wrote.
        folder: where they are kept; nothing there is replaced.

    Returns:
        Their new places; nothing was written yet to one that is empty, which stays.
    """
    kept = []
    for file in sorted(file for file in work.rglob("*.mcap") if file.stat().st_size):
        time_s = file.stat().st_mtime
        name = f"{file.stem}.interrupted-{datetime.fromtimestamp(time_s):%Y%m%d-%H%M%S}"
        target = folder / f"{name}.mcap"
        for number in count(2):
            if not target.exists():
                break
            target = folder / f"{name}-{number}.mcap"
        kept.append(file.rename(target))
    return kept


def _hand_over(writer: Writer) -> None:
    """Give the system what was written so far; a chunk is else held until it has a megabyte."""
    storage = writer.storage
    if not isinstance(storage, McapWriter):
        raise TypeError(f"not a writer of mcap: {storage}")
    if storage.chunk.msgs:
        storage.close_chunk()
    storage.bio.flush()


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
