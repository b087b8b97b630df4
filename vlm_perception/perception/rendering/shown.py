# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What of a scene is shown to people: legible and bounded, whatever a message holds."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from typing import TypeVar

from vlm_perception.types import (
    Attribute,
    Followed,
    LocatedBox,
    LocatedObject,
    LocatedObjects,
    Region,
    Scene,
    Tag,
)

LONGEST_WORDS, LONGEST_CAPTION = 120, 1000
MOST_TAGS, MOST_REGIONS, MOST_ATTRIBUTES, MOST_WARNINGS = 100, 200, 100, 20
LONGEST_PHRASE = 40

Scored = TypeVar("Scored", Tag, Region)


def shown(scene: Scene) -> Scene:
    """The scene with short texts on one line, boxes inside the image, and only so much of each.

    Tags and regions that are too many are left out from the least likely on, hazards, conflicts and
    attributes from the end.
    """
    return replace(
        scene,
        tags=tuple(
            Tag(tag.label_index, legible(tag.label), tag.score)
            for tag in _likeliest(scene.tags, MOST_TAGS)
        ),
        regions=tuple(
            _inside(region, scene.image_size)
            for region in _likeliest(scene.regions, MOST_REGIONS)
            if region.x < scene.image_size[0] and region.y < scene.image_size[1]
        ),
        attributes=tuple(map(_attribute, scene.attributes[:MOST_ATTRIBUTES])),
        hazards=tuple(map(legible, scene.hazards[:MOST_WARNINGS])),
        conflicts=tuple(map(legible, scene.conflicts[:MOST_WARNINGS])),
        caption=legible(scene.caption, LONGEST_CAPTION),
        reason=legible(scene.reason, LONGEST_CAPTION),
    )


def shown_objects(located: LocatedObjects | None) -> tuple[LocatedObject, ...]:
    """The followed objects that are not lost, with short phrases and boxes inside the image."""
    if located is None:
        return ()
    kept = (each for each in located.objects if each.state is not Followed.LOST)
    short = (
        replace(
            each,
            phrase=legible(each.phrase, LONGEST_PHRASE),
            box=_clipped(each.box, located.image_size),
        )
        for each in kept
    )
    return tuple(each for each in short if each.box.width > 0.0 and each.box.height > 0.0)


def _clipped(box: LocatedBox, size: tuple[int, int]) -> LocatedBox:
    left, top = max(0.0, box.x), max(0.0, box.y)
    right, bottom = min(size[0], box.x + box.width), min(size[1], box.y + box.height)
    return replace(box, x=left, y=top, width=right - left, height=bottom - top)


def title(located: LocatedObject) -> str:
    """What is written beside a followed object."""
    score = "" if math.isnan(located.box.score) else f" {located.box.score:.2f}"
    return f"#{located.id} {located.phrase}{score}"


def legible(text: str, longest: int = LONGEST_WORDS) -> str:
    """Text on one line without control characters, cut off where it is too long."""
    # Cut before the work, too: a message may hold megabytes.
    kept = text[: 2 * longest]
    words = "".join(sign if sign.isprintable() else " " for sign in kept).split()
    line = " ".join(words)
    return line if len(line) <= longest and len(kept) == len(text) else f"{line[: longest - 1]}…"


def _likeliest(items: tuple[Scored, ...], most: int) -> tuple[Scored, ...]:
    if len(items) <= most:
        return items
    return tuple(heapq.nlargest(most, items, key=lambda item: item.score))


def _inside(region: Region, size: tuple[int, int]) -> Region:
    return replace(
        region,
        label=legible(region.label),
        width=min(region.width, size[0] - region.x),
        height=min(region.height, size[1] - region.y),
    )


def _attribute(attribute: Attribute) -> Attribute:
    return replace(
        attribute,
        name=legible(attribute.name),
        value=legible(attribute.value),
        probabilities=attribute.probabilities[:MOST_ATTRIBUTES],
    )
