# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Decide when the demo is over: the video ended, the time is up, or a node failed."""

from __future__ import annotations

import time

from vlm_perception.common.errors import RunError
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.processes import NodeProcesses
from vlm_perception.rosgraph.source import InputError, Source
from vlm_perception.rosgraph.topics import IMAGE, SCENE

FIRST_SCENE_WITHIN_S = 60.0
SILENCE_AT_END_S = 1.5
SOURCE = "video_source"
BAD_INPUT = 2
"""With which the source ends when what it plays turns out to be unreadable."""


class NodeFailedError(RunError):
    """A node ended early or no scene came; the message holds its last words."""


class Watch:
    """Looks at processes and messages; ask it often."""

    def __init__(
        self,
        source: Source,
        processes: NodeProcesses,
        observer: Observer,
        limit_s: float | None = None,
    ) -> None:
        """Begin to count the time.

        Args:
            source: What is played.
            processes: The nodes.
            observer: Sees the messages.
            limit_s: Seconds from the first image to the end; without it the source's own end.
        """
        self._source = source
        self._limit = limit_s
        self._processes = processes
        self._observer = observer
        self._started = time.monotonic()
        self._first_image: float | None = None

    def ended(self) -> bool:
        """Whether the source or the time is over.

        Raises:
            InputError: The source became unreadable on the way.
            NodeFailedError: A node ended that should not have, or there is still no scene.
        """
        self._observer.check()
        now = time.monotonic()
        images = self._observer.meters[IMAGE]
        scenes = self._observer.meters[SCENE]
        if self._first_image is None and images.count:
            self._first_image = now
        gone = self._processes.first_exit()
        if gone is not None:
            if gone.name == SOURCE and gone.code == 0 and scenes.count:
                return True
            if gone.name == SOURCE and gone.code == BAD_INPUT:
                raise InputError(gone.error)
            raise NodeFailedError(str(gone))
        if not scenes.count and now - self._started > FIRST_SCENE_WITHIN_S:
            raise NodeFailedError(
                f"no scene arrived within {FIRST_SCENE_WITHIN_S:.0f} s although all nodes are "
                "running: see their logs"
            )
        if self._first_image is None:
            return False
        playing = now - self._first_image
        if self._limit is not None:
            return playing >= self._limit
        silent = not images.recent(time.time_ns(), SILENCE_AT_END_S)
        expected = self._source.seconds
        return silent and expected is not None and playing >= expected
