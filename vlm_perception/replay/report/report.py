# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a replay: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlm_perception.common.duration_histogram import Durations
from vlm_perception.outputs.file import write_whole
from vlm_perception.outputs.page import page_template
from vlm_perception.replay.report.summary import Keyframe, Summary, summarize
from vlm_perception.replay.report.timeline_svg import (
    TRIGGER_COLOURS,
    clock,
    colour_of,
    leap_text,
    timeline,
)

MOST_CARDS = 72
"""Key frames that are shown with an image."""
NAMES = {
    "capture_to_embedding": "capture to embedding",
    "capture_to_reasoning": "capture to the newest reasoning's arrival",
    "capture_to_scene": "capture to scene",
    "total": "a full analysis",
    "tower": "the language model's own vision tower",
    "prefill": "prefill",
    "questions": "all typed questions",
    "caption": "caption",
}


@dataclass(frozen=True)
class Card:
    """A key frame as it is shown."""

    keyframe: Keyframe
    picture: str
    """JPEG file in base64; empty where there is none."""


def write_report(out: Path, facts: dict[str, Any]) -> Path:
    """Write `report.html` from the log and the thumbnails in a folder.

    Args:
        out: the folder of a replay.
        facts: what `run.json` holds.

    Raises:
        ReplayError: the log holds nothing to report on.
    """
    summary = summarize(out / "scene.jsonl")
    template = page_template("vlm_perception.replay.report", "report.html.j2")
    page = template.render(
        facts=facts,
        summary=summary,
        head=summary.head,
        gaps=summary.gaps(),
        missing=sum(count for _, _, count in summary.gaps()),
        timeline=Markup(timeline(summary)),
        cards=_cards(summary, out / "keyframes"),
        modelled=_table(summary.latency, summary.stages),
        colours=TRIGGER_COLOURS,
        clock=clock,
        leap_text=leap_text,
        colour_of=colour_of,
        realtime=_realtime(summary, facts),
        rate_hz=_rate(summary),
        video="overlay.mp4" if (out / "overlay.mp4").exists() else "",
    )
    target = out / "report.html"
    write_whole(target, page)
    return target


def _cards(summary: Summary, pictures: Path) -> list[Card]:
    return [Card(each, _picture(pictures, each.number)) for each in chosen(summary.keyframes)]


def chosen(keyframes: Sequence[Keyframe], most: int = MOST_CARDS) -> list[Keyframe]:
    """The most informative key frames: those with another answer first, then by their trigger."""
    if len(keyframes) <= most:
        return list(keyframes)

    def worth(keyframe: Keyframe) -> tuple[int, int]:
        return len(keyframe.changed), keyframe.trigger not in ("age", "forced")

    ranked = sorted(keyframes, key=worth, reverse=True)
    least = worth(ranked[most - 1])
    sure = [each for each in ranked if worth(each) > least]
    equal = [each for each in keyframes if worth(each) == least]
    room = most - len(sure)
    spread = [equal[index * len(equal) // room] for index in range(room)]
    return sorted([*sure, *spread], key=lambda each: each.number)


def _picture(folder: Path, number: int) -> str:
    file = folder / f"{number:08d}.jpg"
    return base64.b64encode(file.read_bytes()).decode() if file.exists() else ""


def _table(*groups: dict[str, Durations]) -> list[tuple[str, float, float]]:
    """Name, median and 95th percentile in milliseconds."""
    return [
        (NAMES.get(name, name), 1e3 * each.percentile(50), 1e3 * each.percentile(95))
        for group in groups
        for name, each in group.items()
    ]


def _realtime(summary: Summary, facts: dict[str, Any]) -> float:
    """Seconds of the recording that were replayed in one."""
    rate = _rate(summary)
    return float(facts["frames_per_s"]) / rate if rate else 0.0


def _rate(summary: Summary) -> float:
    usual = summary.intervals.percentile(50)
    return 1.0 / usual if usual else 0.0
