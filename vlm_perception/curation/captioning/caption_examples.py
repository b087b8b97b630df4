# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Examples for the report: new captions, and answers that are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vlm_perception.curation.stage_folder import new_captions
from vlm_perception.curation.tasks import Record

Shown = list[tuple[Record, list[str]]]
"""Images, each with the lines below it."""


def written_examples(
    counts: Mapping[str, int], kept: Iterable[Record], most: int
) -> Iterator[tuple[str, int, Shown]]:
    """For each model its first images: heading, count of captions, examples.

    Args:
        counts: captions by model.
        kept: the stage's images.
        most: examples of each.
    """
    found: dict[str, Shown] = {by: [] for by in counts}
    for record in kept:
        new = new_captions(record)
        if new and len(found[new[0]["by"]]) < most:
            lines = [f"{each['language']}: {each['text']}" for each in new]
            found[new[0]["by"]].append((record, lines))
    for by, count in counts.items():
        yield f"captioned by {by}", count, found[by]


def failed_examples(
    counts: Mapping[str, int], failed: Iterable[Record], most: int
) -> Iterator[tuple[str, int, Shown]]:
    """For each kind of fault its first images with every answer: heading, count, examples."""
    found: dict[str, Shown] = {fault: [] for fault in counts}
    for record in failed:
        if len(found[record["fault"]]) < most:
            lines = [answer_line(each) for each in record["answers"]]
            found[record["fault"]].append((record, lines))
    for fault, count in counts.items():
        yield f"no caption: {fault}", count, found[fault]


def answer_line(answer: Record) -> str:
    """An attempt that gave no caption."""
    said = repr(answer["text"]) if "text" in answer else "no answer"
    return f"{answer['language']}, attempt {answer['attempt']}: {said} ({answer['fault']})"
