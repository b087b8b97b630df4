# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Examples of what was kept, and of what each rule rejected, as pictures."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.captioning.caption_examples import failed_examples, written_examples
from vlm_perception.curation.image_files import stored_pixels
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.quality.findings import QUALITY_RULES, caption_lines
from vlm_perception.curation.quality.retrieval_check import read_check
from vlm_perception.curation.stage_folder import (
    CAPTIONED,
    FAILED,
    FILTERED,
    FINAL,
    KEPT,
    QUALITY,
    REJECTED,
    Manifest,
)
from vlm_perception.curation.tasks import Record

EXAMPLES = 8
"""Of each rule."""
THUMBNAIL = 188
"""Pixels across."""
RULE_TEXTS = {
    "min_side": "shorter side below min_side",
    "phash_distance": "near-duplicate: the one that stayed is on the right",
    "embedding_cosine": "near-duplicate by embedding: the one that stayed is on the right",
    "min_sharpness": "less sharp than min_sharpness",
    "min_brightness": "darker than min_brightness",
    "max_brightness": "brighter than max_brightness",
    **QUALITY_RULES,
}


@dataclass(frozen=True)
class Example:
    """An image of the report, and of a near-duplicate the one that stayed."""

    images: list[str]
    """JPEG files in base64, of those that can still be read."""
    path: str
    figure: str
    captions: list[str]
    """With what was found of each."""


@dataclass(frozen=True)
class Group:
    """Examples of what one rule did."""

    heading: str
    count: int
    """Of all images that it did it to."""
    examples: list[Example]


def groups(folder: Path, made: Sequence[Manifest]) -> Iterator[Group]:
    """What the last stage that judges has kept, and what each rule of each stage rejected."""
    last = [each for each in made if each.name != FINAL][-1]
    kept = _spread_out(folder / last.name / KEPT, {"kept": last.kept})
    yield Group("kept", last.kept, [_example(folder, record, {}) for record in kept["kept"]])
    for manifest in made:
        chosen = _spread_out(folder / manifest.name / REJECTED, manifest.rules)
        stayed = {each["stayed"] for some in chosen.values() for each in some if "stayed" in each}
        others = _by_id(folder / manifest.name / KEPT, stayed)
        for rule, records in chosen.items():
            examples = [_example(folder, record, others) for record in records]
            yield Group(RULE_TEXTS.get(rule, rule), manifest.rules[rule], examples)
        if manifest.name == FILTERED:
            yield from _blurred(folder)


def _blurred(folder: Path) -> Iterator[Group]:
    """Images whose faces or plates were blurred, as later stages see them."""

    def changed() -> Iterator[Record]:
        return (each for each in read_lines(folder / FILTERED / KEPT) if "unblurred" in each)

    count = sum(1 for _ in changed())
    if not count:
        return
    places = _places(count)
    chosen = [record for place, record in enumerate(changed()) if place in places]
    examples = [
        Example(
            _thumbnails(folder, [record]),
            record["path"],
            ", ".join(f"{kind}: {regions}" for kind, regions in record["blurred"].items()),
            [],
        )
        for record in chosen
    ]
    yield Group("faces or number plates blurred", count, examples)


def captioned(folder: Path, made: Sequence[Manifest]) -> Iterator[Group]:
    """New captions by their model, and images without one by the kind of fault."""
    for manifest in (each for each in made if each.name == CAPTIONED):
        kept, without = (read_lines(folder / CAPTIONED / file) for file in (KEPT, FAILED))
        for heading, count, shown in (
            *written_examples(manifest.written, kept, EXAMPLES),
            *failed_examples(manifest.faults, without, EXAMPLES),
        ):
            examples = [
                Example(_thumbnails(folder, [record]), record["path"], "", lines)
                for record, lines in shown
            ]
            yield Group(heading, count, examples)


def worst(folder: Path, made: Sequence[Manifest]) -> tuple[str, list[Example]]:
    """What the retrieval check has found, and the images whose caption came last."""
    found = read_check(folder) if QUALITY in [each.name for each in made] else None
    if found is None:
        return "", []
    examples = [_example(folder, {**each, "figure": each["rank"]}, {}) for each in found.worst]
    return found.told, examples


def failed(folder: Path, made: Sequence[Manifest]) -> Iterator[tuple[str, str, str]]:
    """Stage, path and reason of each image that failed."""
    for each in made:
        for record in read_lines(folder / each.name / FAILED):
            yield each.name, record["path"], record["reason"]


def _spread_out(file: Path, counts: dict[str, int]) -> dict[str, list[Record]]:
    """Some records of each rule, from all over the list; those of no rule count as kept."""
    chosen: dict[str, list[Record]] = {rule: [] for rule in counts}
    seen: Counter[str] = Counter()
    places = {rule: _places(count) for rule, count in counts.items()}
    for record in read_lines(file):
        rule = record.get("rule", "kept")
        if seen[rule] in places[rule]:
            chosen[rule].append(record)
        seen[rule] += 1
    return chosen


def _places(count: int) -> set[int]:
    """Of the examples among so many."""
    return {n * count // EXAMPLES for n in range(EXAMPLES)}


def _by_id(file: Path, wanted: set[int]) -> dict[int, Record]:
    if not wanted:
        return {}
    return {each["id"]: each for each in read_lines(file) if each["id"] in wanted}


def _example(folder: Path, record: Record, others: dict[int, Record]) -> Example:
    shown = [record, *([others[record["stayed"]]] if "stayed" in record else [])]
    figure = f"{record['figure']:g}" if "figure" in record else ""
    return Example(_thumbnails(folder, shown), record["path"], figure, caption_lines(record))


def _thumbnails(folder: Path, records: Sequence[Record]) -> list[str]:
    found = (stored_pixels(folder, record) for record in records)
    return [_thumbnail(pixels) for pixels in found if pixels is not None]


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    height, width = pixels.shape[:2]
    size = (THUMBNAIL, max(1, min(2 * THUMBNAIL, round(height * THUMBNAIL / width))))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(bytes(cv2.imencode(".jpg", small)[1])).decode()
