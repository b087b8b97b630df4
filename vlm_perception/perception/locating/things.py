# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Things of one kind, each with its outline, from a map of scores and the image's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.locating.colours import SHADES, binned, fits, light_of
from vlm_perception.perception.locating.instances import Instance, find_instances
from vlm_perception.perception.locating.outline import Outline, grown, heaviest, outline

Extent = tuple[float, float, float, float]
"""x, y, width, height in pixels of the image."""

MOST_BOXES = 8
PERSISTENCE = 2.0
"""Log-odds by which a second thing must stand out from the valley between it and the first."""
WEAKER = 5.0
"""Things are not reported whose log-odds are so far below those of the likeliest one."""
SPREAD = 5.0
"""Log-odds below the peak at which a patch counts 1/e as much: a patch that shows a thing in part
scores lower than one that it fills."""
MARGIN = 1
"""Patches around a thing's own in which its outline is looked for."""
LEVEL = 0.6
"""Without pixels, a thing ends where the interpolated map falls to this share of its peak."""
AS_LIKELY, COVERED = 3.0, 0.05
"""A patch that is less likely than the peak by no more log-odds than this, and of which the outline
covers less than this share, shows another thing."""
SAME = 0.3
"""Boxes that share more of the smaller one are of one thing."""
ALIKE = 0.5
"""A thing is of the colour as a whole if it fits this well, relative to the part that fits best;
else that part is looked at, which may be one of two things that look like one."""
PAINTED = 0.3
"""A smaller part, relative to the thing's core, is not the thing: red lamps make no red car."""
OFF_CENTRE = 2.0
"""Log-odds that a thing loses whose centre does not have its colours: the box may be wrong."""
LEFT_OVER = 0.2
"""Beside other things, a thing has a part of the map to itself that reaches this share of the peak,
..."""
ABOVE = 0.6
"""... and stands beside them, not above or below: parts of one thing do that. Of the narrower one's
width it shares at most so much."""
EVERY = 2
"""Of the whole image's pixels, each so many-th of a row and of a column is counted."""
UNFIT = 0.1
"""A pixel that does not fit the colour at all is so much less likely the thing's: it has windows
and wheels."""


@dataclass(frozen=True)
class Thing:
    """What was found."""

    box: Extent
    log_odds: float
    """Of the likeliest patch, less up to OFF_CENTRE where the centre is not in the outline."""
    fit: float = 1.0
    """How well its colour fits the one that is asked for."""


def find_things(
    scores: NDArray[np.float32],
    least: float,
    patch: int,
    fitted: NDArray[np.uint8] | None,
    colour: str = "",
    *,
    chosen: bool = False,
) -> list[Thing]:
    """The things of one kind in a map of scores.

    Args:
        scores: [rows, columns], log-odds of each patch.
        least: patches below it show none.
        patch: side of a patch in pixels.
        fitted: RGB [rows * patch, columns * patch, 3], whose colours the outlines follow; None:
            they are interpolated.
        colour: one of COLOURS that the things are to fit; empty: any.
        chosen: whether a few will be chosen of what is found, so that one that was missed is worse
            than one too many.

    Returns:
        The likeliest first, MOST_BOXES of them at most.
    """
    least = max(least, float(scores.max()) - WEAKER)
    instances = find_instances(scores, least, PERSISTENCE)[:MOST_BOXES]
    if not instances:
        return []
    view = None if fitted is None else _View.of(fitted, colour, scores, patch)
    found: list[tuple[Thing, Instance]] = []
    waiting = [(instance, instance) for instance in instances]
    while waiting and len(found) < MOST_BOXES:
        instance, whole = waiting.pop(0)
        own = np.exp((np.minimum(scores, instance.peak) - instance.peak) / SPREAD)
        for other in instances:
            # What belongs to another thing is not this one's, however likely.
            if other is not whole:
                own[other.cells[:, 0], other.cells[:, 1]] = 0.0
        corner, likely = _window(own, instance.cells, patch)
        if chosen and instance is not whole:
            likely = _left_over(corner, likely, [thing for thing, _ in found])
        if not likely.any():
            continue
        thing = _thing(instance.peak, corner, likely, view)
        same = any(_shared(thing.box, other.box) > SAME for other, _ in found)
        beside = [other for other, its in found if its is whole]
        if same or (chosen and any(_above(thing.box, other.box) for other in beside)):
            continue
        found.append((thing, whole))
        rest = _beside(thing.box, instance, scores, patch) if view is not None else None
        if rest is not None:
            waiting.append((rest, whole))
    return sorted((thing for thing, _ in found), key=lambda thing: -thing.log_odds)


def _beside(
    box: Extent, instance: Instance, scores: NDArray[np.float32], patch: int
) -> Instance | None:
    """The patches of an instance that are as likely as its peak and not in its outline.

    They show a second thing of the kind, so near that there is no valley between the two.
    """
    cells = instance.cells
    x, y, width, height = box
    across = np.minimum((cells[:, 1] + 1) * patch, x + width) - np.maximum(cells[:, 1] * patch, x)
    down = np.minimum((cells[:, 0] + 1) * patch, y + height) - np.maximum(cells[:, 0] * patch, y)
    covered = np.maximum(across, 0.0) * np.maximum(down, 0.0) / patch**2
    values = scores[cells[:, 0], cells[:, 1]]
    beside = (covered < COVERED) & (values >= instance.peak - AS_LIKELY)
    return Instance(float(values[beside].max()), cells[beside]) if beside.any() else None


def _window(
    own: NDArray[np.float32], cells: NDArray[np.intp], patch: int
) -> tuple[tuple[int, int], NDArray[np.float32]]:
    """Left and top of the part of the graph's image around some cells, and the map in it.

    Interpolated between the centres of the patches, to the graph's pixels; the peak is 1.
    """
    low = np.maximum(cells.min(axis=0) - MARGIN, 0)
    high = np.minimum(cells.max(axis=0) + 1 + MARGIN, own.shape)
    # One more row and column, where there is one, so that the window's own are interpolated.
    begin, end = np.maximum(low - 1, 0), np.minimum(high + 1, own.shape)
    part = own[begin[0] : end[0], begin[1] : end[1]]
    size = (part.shape[1] * patch, part.shape[0] * patch)
    fine = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    first, last = (low - begin) * patch, (high - begin) * patch
    fine = fine[first[0] : last[0], first[1] : last[1]]
    peak = max(float(fine.max()), 1e-6)
    return (int(low[1]) * patch, int(low[0]) * patch), np.asarray(fine / peak, np.float32)


def _left_over(
    corner: tuple[int, int], likely: NDArray[np.float32], things: Sequence[Thing]
) -> NDArray[np.float32]:
    """A window's map beside the boxes of things; all zero where there is hardly anything left."""
    left, top = corner
    rest = likely.copy()
    for thing in things:
        x, y = round(thing.box[0]) - left, round(thing.box[1]) - top
        width, height = round(thing.box[2]), round(thing.box[3])
        rest[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = 0.0
    peak = float(rest.max())
    return np.asarray(rest / peak if peak >= LEFT_OVER else np.zeros_like(rest), np.float32)


def _thing(
    peak: float, corner: tuple[int, int], likely: NDArray[np.float32], view: _View | None
) -> Thing:
    """The thing in a window."""
    left, top = corner
    if view is None:
        (x, y, width, height), _ = heaviest(likely, LEVEL)
        return Thing((float(left + x), float(top + y), float(width), float(height)), peak)
    rows, columns = likely.shape
    seen, fit = view.outlined(slice(top, top + rows), slice(left, left + columns), likely)
    x, y, width, height = seen.box
    box = (float(left + x), float(top + y), float(width), float(height))
    return Thing(box, peak - OFF_CENTRE * (1.0 - seen.at_centre), fit)


@dataclass(frozen=True)
class _View:
    """The image in which things are outlined."""

    fitted: NDArray[np.uint8]
    elsewhere: NDArray[np.float64]
    """[colours], as `outline` takes it."""
    colour: str
    light: NDArray[np.float64]

    @classmethod
    def of(
        cls, fitted: NDArray[np.uint8], colour: str, scores: NDArray[np.float32], patch: int
    ) -> _View:
        """An image, with the map of what is looked for in it."""
        likely = np.exp((scores - scores.max()) / SPREAD)
        rows, columns = scores.shape
        size = (columns * patch // EVERY, rows * patch // EVERY)
        fine = cv2.resize(likely, size, interpolation=cv2.INTER_LINEAR)
        bins = binned(fitted[EVERY // 2 :: EVERY, EVERY // 2 :: EVERY])
        counts = np.bincount(bins.ravel(), 1.0 - fine.ravel(), SHADES**3) * float(EVERY**2)
        light = light_of(fitted) if colour else np.ones(3)
        return cls(fitted, np.asarray(counts, np.float64), colour, light)

    def outlined(
        self, rows: slice, columns: slice, likely: NDArray[np.float32]
    ) -> tuple[Outline, float]:
        """What is in a window, and how well it fits the colour."""
        bins = binned(self.fitted[rows, columns])
        whole = outline(likely, bins, self.elsewhere)
        if not self.colour:
            return whole, 1.0
        fitting = fits(bins, self.colour, self.light)
        part = outline(_where_fitting(likely, fitting), bins, self.elsewhere)
        fit, alike = float(fitting[part.core].mean()), float(fitting[whole.core].mean())
        if part.core.sum() < PAINTED * whole.core.sum():
            return whole, alike
        if alike >= ALIKE * fit:
            return whole, fit
        return replace(part, box=grown(part.box, whole.box)), fit


def _above(first: Extent, second: Extent) -> bool:
    """Whether one box is above the other."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    return across > ABOVE * min(first[2], second[2])


def _shared(first: Extent, second: Extent) -> float:
    """What two boxes share, relative to the smaller one."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    least = min(first[2] * first[3], second[2] * second[3])
    return max(across, 0.0) * max(down, 0.0) / max(least, 1e-6)


def _where_fitting(
    likely: NDArray[np.float32], fitting: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A map of how likely each pixel is the thing's, less so where it does not fit the colour."""
    best = max(float((likely * fitting).max()), 1e-6)
    weighed = likely * (UNFIT + (1.0 - UNFIT) * fitting / best)
    return np.asarray(np.minimum(weighed / max(float(weighed.max()), 1e-6), 1.0), np.float32)
