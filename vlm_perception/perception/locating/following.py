# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the followed objects of one camera in its newer frames, by their patch embeddings."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from vlm_perception.engines.steps import step
from vlm_perception.perception.details import without_detail
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.locator import Located, Locator
from vlm_perception.perception.locating.patches import PhraseQuery
from vlm_perception.perception.locating.tracking import Tracker
from vlm_perception.types import Embedding, LocatedBox, LocatedObject, LocatedObjects


class Following:
    """What is followed of one camera; for any thread."""

    def __init__(
        self, locator: Locator, run_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Follow nothing yet.

        Args:
            locator: looks in the frames.
            run_id: of who follows.
            clock: monotonic time in seconds.
        """
        self._locator, self._run_id, self._clock = locator, run_id, clock
        self._lock = threading.Lock()
        self._tracker = Tracker()
        self._queries: dict[str, PhraseQuery] = {}
        self._newest: Embedding | None = None
        self._newest_s, self._reset_s = -math.inf, clock()

    def __len__(self) -> int:
        return len(self._tracker)

    def follow(self, located: Located, found_s: float) -> tuple[LocatedObject, ...]:
        """Follow what was found from now on.

        Args:
            located: what was found.
            found_s: when the frame came, by the clock; the answer may have taken seconds.

        Returns:
            It with its ids; 0 for what is not followed, as when everything was lost since.
        """
        if located.query is None:
            raise LocateError("what was located cannot be followed; look for it with track")
        phrase, embedding = located.query.phrase, located.embedding
        thing = phrase.coloured or phrase.thing
        with self._lock:
            ids = (0,) * len(located.boxes)
            if found_s >= self._reset_s:
                ids = self._tracker.follow(
                    phrase.text,
                    thing,
                    located.boxes,
                    run_id=embedding.run_id,
                    found_s=found_s,
                    now_s=self._clock(),
                )
            if any(ids):
                self._queries[thing] = located.query
                self._see(embedding, found_s)
            self._prune()
        return tuple(
            LocatedObject(number, phrase.text, box)
            for number, box in zip(ids, located.boxes, strict=True)
        )

    def update(self, embedding: Embedding, came_s: float) -> LocatedObjects:
        """Find the objects in a newer frame.

        Args:
            embedding: the frame, with its patch embeddings.
            came_s: when it came, by the clock.

        Raises:
            VlmPerceptionError: the frame cannot be read.
        """
        with self._lock:
            found = {thing: self._look(query, embedding) for thing, query in self._queries.items()}
            objects = self._tracker.update(
                found,
                run_id=embedding.run_id,
                stamp_ns=embedding.stamp_ns,
                now_s=came_s,
            )
            self._see(embedding, came_s)
            self._prune()
        return self._objects(embedding, objects)

    def expire(self) -> LocatedObjects | None:
        """Lose what could not be looked for for too long; None: all that is lost was told.

        What is told is about the last frame that was looked at.
        """
        with self._lock:
            objects, newest = self._tracker.expire(self._clock()), self._newest
            self._prune()
        return self._objects(newest, objects) if objects and newest is not None else None

    def reset(self) -> None:
        """Lose everything, as after a time jump."""
        with self._lock:
            self._tracker.reset()
            self._reset_s = self._clock()
            self._prune()

    def _look(self, query: PhraseQuery, embedding: Embedding) -> tuple[LocatedBox, ...]:
        with step("looking for a followed object"):
            return self._locator.look(query, embedding)

    def _see(self, embedding: Embedding, came_s: float) -> None:
        if came_s >= self._newest_s:
            self._newest, self._newest_s = without_detail(embedding), came_s

    def _prune(self) -> None:
        """Keep the queries of what is followed only."""
        self._queries = {thing: self._queries[thing] for thing in self._tracker.things}

    def _objects(self, embedding: Embedding, objects: tuple[LocatedObject, ...]) -> LocatedObjects:
        return LocatedObjects(
            stamp_ns=embedding.stamp_ns,
            frame_id=embedding.frame_id,
            run_id=self._run_id,
            bundle_digest=embedding.bundle_digest,
            image_size=embedding.image_size,
            objects=objects,
        )
