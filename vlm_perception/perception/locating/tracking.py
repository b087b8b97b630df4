# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Follows objects from frame to frame by the boxes in which their phrases are found.

Each frame's boxes are joined to the objects one to one, those that overlap most first: tracking by
detection as in Bochinski et al., High-Speed Tracking-by-Detection Without Using Image Information,
AVSS 2017. A box is joined within a gate around the last one only, however much they overlap: where
things of a kind stand close together, the box of one that is not found covers the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlm_perception.types import Followed, LocatedBox, LocatedObject

MOST_FOLLOWED = 16
"""Objects that are followed at once; for a further one, that which was asked for first is lost."""
LOST_AFTER_S, UNSEEN_S = 1.0, 3.0
"""An object is lost when frames did not show it for so long, or when there were no frames to look
at for so long."""
SAME_OVERLAP = 0.5
"""Intersection over union from which a box that is asked for is an object that is followed."""
GATE, GATE_PER_S = 0.25, 0.5
"""How far a box may be from where the object was found last, centre to centre, in sizes of the
object; and how much farther for each second since. A size is the root of an area."""
MOST_GROWTH = 4.0
"""How many times larger or smaller the area of the joined box may be."""


@dataclass
class _Track:
    phrase: str
    thing: str
    box: LocatedBox
    found_s: float
    """When the frame came in which it was found last."""
    looked_s: float
    """When it was looked for last, found or not, or asked for."""
    missed_s: float | None = None
    """When it was first not found, since it was found last."""


class Tracker:
    """The followed objects of one camera; belongs to one thread at a time."""

    def __init__(self) -> None:
        """Follow nothing yet."""
        self._ids = itertools.count(1)
        self._tracks: dict[int, _Track] = {}
        self._lost: list[LocatedObject] = []
        self._run_id, self._stamp_ns = "", 0
        self._seen_s = -math.inf
        """When the newest frame of the run came."""

    def __len__(self) -> int:
        return len(self._tracks)

    @property
    def things(self) -> tuple[str, ...]:
        """What to look for in the next frame, each once."""
        return tuple(dict.fromkeys(track.thing for track in self._tracks.values()))

    def follow(
        self,
        phrase: str,
        thing: str,
        boxes: Sequence[LocatedBox],
        *,
        run_id: str,
        found_s: float,
        now_s: float,
    ) -> tuple[int, ...]:
        """Follow what was found; what was followed in an earlier run is lost.

        Args:
            phrase: as it was asked for.
            thing: what to look for in later frames: the phrase without words of place, which an
                object that moves leaves.
            boxes: where it is, the best first.
            run_id: of the frame's encoder.
            found_s: monotonic time at which the frame came, in seconds.
            now_s: monotonic time in seconds.

        Returns:
            The id of each box, 0 for those beyond the most, and for all of a run that has ended
            since. One that is followed already, under the same phrase, keeps its id.
        """
        if self._breaks(run_id):
            if found_s < self._seen_s:
                return (0,) * len(boxes)
            self.reset()
        self._run_id, self._seen_s = run_id, max(self._seen_s, found_s)
        ids: list[int] = []
        for box in boxes[:MOST_FOLLOWED]:
            number = self._known(phrase, box, ids) or next(self._ids)
            self._tracks.pop(number, None)  # The newest stand last.
            self._tracks[number] = _Track(phrase, thing, box, found_s, now_s)
            ids.append(number)
        self._lose(tuple(self._tracks)[: max(0, len(self._tracks) - MOST_FOLLOWED)])
        return (*ids, *(0 for _ in boxes[MOST_FOLLOWED:]))

    def update(
        self,
        found: Mapping[str, Sequence[LocatedBox]],
        *,
        run_id: str,
        stamp_ns: int,
        now_s: float,
    ) -> tuple[LocatedObject, ...]:
        """Join the boxes of a newer frame to the objects.

        When the stamps go back, or the frames are those of another run, everything is lost: what
        was followed is not in these frames.

        Args:
            found: by thing where it is; a thing that was not looked for is as if not found.
            run_id: of the frame's encoder.
            stamp_ns: of the frame; 0: unknown.
            now_s: monotonic time at which the frame came, in seconds.

        Returns:
            The objects by id, with those that were lost since the last call. Of the lost ones at
            most MOST_FOLLOWED; `expire` gives the rest.
        """
        if self._breaks(run_id, stamp_ns):
            self.reset()
        self._run_id, self._stamp_ns = run_id, stamp_ns or self._stamp_ns
        self._seen_s = max(self._seen_s, now_s)
        for thing in self.things:
            self._join(thing, found.get(thing, ()), now_s)
        self._lose(
            tuple(
                number
                for number, track in self._tracks.items()
                if track.missed_s is not None and now_s - track.missed_s >= LOST_AFTER_S
            )
        )
        return self._told()

    def expire(self, now_s: float) -> tuple[LocatedObject, ...]:
        """As `update` while no frame comes; empty once all that is lost was told."""
        self._lose(
            tuple(
                number
                for number, track in self._tracks.items()
                if now_s - track.looked_s >= UNSEEN_S
            )
        )
        return self._told() if self._lost else ()

    def reset(self) -> None:
        """Lose everything."""
        self._lose(tuple(self._tracks))
        self._run_id, self._stamp_ns, self._seen_s = "", 0, -math.inf

    def _breaks(self, run_id: str, stamp_ns: int = 0) -> bool:
        """Whether a frame cannot follow the last one: of another run, or with an earlier stamp."""
        back = bool(stamp_ns and self._stamp_ns) and stamp_ns < self._stamp_ns
        return bool(self._run_id) and (run_id != self._run_id or back)

    def _known(self, phrase: str, box: LocatedBox, taken: Sequence[int]) -> int | None:
        same = (
            number
            for number, track in self._tracks.items()
            if track.phrase == phrase
            and number not in taken
            and overlap(track.box, box) >= SAME_OVERLAP
        )
        return next(same, None)

    def _join(self, thing: str, boxes: Sequence[LocatedBox], now_s: float) -> None:
        """Join the boxes of a thing to its objects; those of other phrases may be the same ones."""
        pairs, free = [], set[int]()
        for number, track in self._tracks.items():
            if track.thing == thing:
                free.add(number)
                track.looked_s = max(track.looked_s, now_s)
                ranks = enumerate(_rank(track, box, now_s) for box in boxes)
                pairs += [(rank, number, index) for index, rank in ranks if rank is not None]
        taken: set[tuple[str, int]] = set()
        for _, number, index in sorted(pairs):
            track = self._tracks[number]
            if number in free and (track.phrase, index) not in taken:
                free.remove(number)
                taken.add((track.phrase, index))
                track.box, track.found_s, track.missed_s = boxes[index], now_s, None
        for number in free:
            track = self._tracks[number]
            track.missed_s = now_s if track.missed_s is None else track.missed_s

    def _lose(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            track = self._tracks.pop(number)
            self._lost.append(LocatedObject(number, track.phrase, track.box, Followed.LOST))

    def _told(self) -> tuple[LocatedObject, ...]:
        lost, self._lost = self._lost[:MOST_FOLLOWED], self._lost[MOST_FOLLOWED:]
        here = (
            LocatedObject(
                number,
                track.phrase,
                track.box,
                Followed.FOUND if track.missed_s is None else Followed.MISSED,
            )
            for number, track in self._tracks.items()
        )
        return tuple(sorted((*here, *lost), key=lambda each: each.id))


def overlap(one: LocatedBox, other: LocatedBox) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    if across <= 0.0 or down <= 0.0:
        return 0.0
    shared = across * down
    return shared / (one.width * one.height + other.width * other.height - shared)


def _rank(track: _Track, box: LocatedBox, now_s: float) -> tuple[float, float] | None:
    """What puts the better ones of an object's boxes first; None for one that is none of them."""
    last = track.box
    area, other = last.width * last.height, box.width * box.height
    if not area <= MOST_GROWTH * other <= MOST_GROWTH**2 * area:
        return None
    size = math.sqrt(area)
    far = math.dist(_centre(last), _centre(box)) / size
    if far > GATE + GATE_PER_S * max(0.0, now_s - track.found_s):
        return None
    return -overlap(last, box), far


def _centre(box: LocatedBox) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2
