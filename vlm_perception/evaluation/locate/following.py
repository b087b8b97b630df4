# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How long an object is followed: drives through the road world, which knows which is which.

A trial begins as a user would begin: a label is asked for, and the centre of the best box lies on
an object of that label. It ends when the object is lost, when it leaves the image (or covers less
than 0.1 % of it), or with the drive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.sequences import DRIVE, SIZE, Stretch, play
from vlm_perception.datasets.roadworld.streets import Street
from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, SMALL_SHARE, ObjectTruth
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS, Actor
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.road_world import require_road_world
from vlm_perception.perception.locating.patches import PatchLocator
from vlm_perception.perception.locating.tracking import Tracker
from vlm_perception.perception.preprocess import place_in
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Followed, Frame, LocatedBox

FIRST_SEED = 20_600_000
"""Of the drives: nothing was trained or tuned on them, the gates of the tracker neither."""
HZ, EVERY = 10.0, 10
"""Frames a second, and how many of them lie between two that trials begin with."""
LABELS = tuple(
    label for label in OBJECT_LABELS if label != "crosswalk" and not label.endswith("light")
)
"""Not lights, which change their labels, nor what lies on the road."""
ALL = "all"

Origin = tuple[float, float]
"""Where an object was at the beginning of a drive, which tells it from all others."""


@dataclass
class Trial:
    """One object that is followed."""

    label: str
    origin: Origin
    first: LocatedBox
    tracker: Tracker = field(default_factory=Tracker)
    frames: int = 0
    on_object: int = 0
    still: int = 0
    """Frames in which a box that stays where it began would be on the object."""
    switched: bool = False
    """Whether the box was ever on another object of the label."""
    lost: bool = False
    left: bool = False
    """Whether it was followed until it left the image."""


@dataclass(frozen=True)
class FollowingRow:
    """What became of the objects of one label."""

    label: str
    trials: int
    seconds: float
    """In which an object was in the image and not lost yet."""
    on_object: float
    """Share of these in which the centre of the box was on that object."""
    still: float
    """The same for boxes that stay where they were."""
    left: float
    """Share of the objects that were followed until they left the image."""
    lost: float
    """Share of them that were lost before."""
    until_lost_s: float
    """Median seconds until that; NaN where none was lost."""
    switched: float
    """Share of them whose box was ever on another object of the label."""


def run(bundle: str, drives: int, seconds: float) -> Report:
    """Follow objects through drives and report by label.

    Args:
        bundle: name or directory of a road-world bundle.
        drives: number of drives.
        seconds: length of each.

    Raises:
        BundleError: the bundle cannot be used.
        ForeignBundleError: it is no road-world bundle.
    """
    model = ModelBundle.load(bundle)
    require_road_world(model)
    follower = Follower(model)
    trials: list[Trial] = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("Frames", total=round(drives * seconds * HZ))
        for seed in range(FIRST_SEED, FIRST_SEED + drives):
            for tick, street in enumerate(play(Stretch(DRIVE, seed, seconds, HZ))):
                trials += follower.see(street, tick)
                progress.advance(bar)
            trials += follower.end()
    groups = {ALL: trials} | {
        label: [each for each in trials if each.label == label] for label in LABELS
    }
    rows = [_row(label, group) for label, group in groups.items() if group]
    figures = {"drives": drives, "seconds": seconds, "rows": [asdict(row) for row in rows]}
    return Report([_table(rows)], figures)


class Follower:
    """Begins, updates and ends the trials of one drive after the other."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the vision tower."""
        self._encoder, self._locator = VisionEncoder(bundle), PatchLocator(bundle)
        self._image = bundle.manifest.image
        self._trials: list[Trial] = []

    def see(self, street: Street, tick: int) -> Iterator[Trial]:
        """Take the next frame of a drive, and give the trials that it ends."""
        here, ids = objects_of(street, tick / HZ), street.rendered.ids
        found = self._find(street, tick)
        for trial in tuple(self._trials):
            boxes = found.get(trial.label, ())
            if not _goes_on(trial, boxes, here, ids, tick):
                self._trials.remove(trial)
                yield trial
        if tick % EVERY == 0:
            for label, boxes in found.items():
                on = here.get(_at(ids, boxes[0])) if boxes else None
                if on is not None and on[1].label == label and on[1].share >= SMALL_SHARE:
                    trial = Trial(label, on[0], boxes[0])
                    now_s = tick / HZ
                    trial.tracker.follow(
                        label, label, boxes[:1], run_id="", found_s=now_s, now_s=now_s
                    )
                    self._trials.append(trial)

    def end(self) -> list[Trial]:
        """End the trials of a drive."""
        ended, self._trials = self._trials, []
        return ended

    def _find(self, street: Street, tick: int) -> dict[str, tuple[LocatedBox, ...]]:
        """Boxes of what is followed, and of what trials may begin with."""
        wanted = {trial.label for trial in self._trials}
        if tick % EVERY == 0:
            large = (each.label for each in street.truth.objects if each.share >= SMALL_SHARE)
            wanted |= set(large) & set(LABELS)
        image = np.ascontiguousarray(street.image)
        patches = self._encoder.encode(Frame(image, 0), tick).patches
        if patches is None or not wanted:
            return {}
        locator, placement = self._locator, place_in(SIZE, self._image)
        fitted = locator.fit(image)
        return {
            label: locator.find(
                locator.query(label), patches.vectors, patches.token_index, placement, fitted
            )
            for label in sorted(wanted)
        }


def _goes_on(
    trial: Trial,
    boxes: Sequence[LocatedBox],
    here: Mapping[int, tuple[Origin, ObjectTruth]],
    ids: NDArray[np.uint8],
    tick: int,
) -> bool:
    """Update a trial with a frame; false where that ends it."""
    own = [identity for identity, (origin, _) in here.items() if origin == trial.origin]
    if not own:
        trial.left = True
        return False
    (seen,) = trial.tracker.update({trial.label: boxes}, run_id="", stamp_ns=tick, now_s=tick / HZ)
    trial.frames += 1
    if seen.state is Followed.LOST:
        trial.lost = True
        return False
    at = _at(ids, seen.box)
    trial.on_object += at == own[0]
    trial.still += _at(ids, trial.first) == own[0]
    trial.switched |= at != own[0] and at in here and here[at][1].label == trial.label
    return True


def objects_of(street: Street, time: float) -> dict[int, tuple[Origin, ObjectTruth]]:
    """By the value of its pixels, what of a frame can be told apart."""
    actors = street.rendered.objects
    return {
        each.identity: (_origin(actors[each.identity - 1], time), each)
        for each in street.truth.objects
        if each.share >= PRESENT_SHARE
    }


def _origin(actor: Actor, time: float) -> Origin:
    step = actor.speed * time
    s, d = actor.s - step * np.cos(actor.yaw), actor.d - step * np.sin(actor.yaw)
    return round(float(s), 2), round(float(d), 2)


def _at(ids: NDArray[np.uint8], box: LocatedBox) -> int:
    """What the pixel at the centre of a box shows."""
    height, width = ids.shape
    x, y = int(box.x + box.width / 2), int(box.y + box.height / 2)
    return int(ids[min(y, height - 1), min(x, width - 1)])


def _row(label: str, trials: Sequence[Trial]) -> FollowingRow:
    frames = max(1, sum(each.frames for each in trials))
    until = [each.frames / HZ for each in trials if each.lost]

    def share(flags: Iterator[bool]) -> float:
        return sum(flags) / len(trials)

    return FollowingRow(
        label,
        len(trials),
        frames / HZ,
        sum(each.on_object for each in trials) / frames,
        sum(each.still for each in trials) / frames,
        share(each.left for each in trials),
        share(each.lost for each in trials),
        median(until) if until else float("nan"),
        share(each.switched for each in trials),
    )


def _table(rows: Sequence[FollowingRow]) -> Table:
    table = figure_table(
        "Objects above 0.5 % of the image, followed",
        "label",
        "objects",
        "s",
        "on it",
        "unmoved",
        "to the end",
        "lost",
        "after s",
        "switched",
        caption="on it: share of the time in which the box's centre is on the object; unmoved: the "
        "same for a box that stays; to the end: objects that were followed until they left",
    )
    for row in rows:
        table.add_row(
            row.label,
            str(row.trials),
            f"{row.seconds:.0f}",
            *(f"{value:.2f}" for value in (row.on_object, row.still, row.left, row.lost)),
            "-" if np.isnan(row.until_lost_s) else f"{row.until_lost_s:.1f}",
            f"{row.switched:.2f}",
        )
    return table
