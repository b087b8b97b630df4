# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The time line of a replay as one SVG image."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from html import escape

from vlm_perception.replay.report.summary import Course, Summary

WIDTH, LEFT, RIGHT = 1180, 176, 16
PLOT = WIDTH - LEFT - RIGHT
ROW, GAP, DRIFT_HEIGHT = 20, 6, 54
MOST_TAGS = 16
LETTER = 6.2
TRIGGER_COLOURS = {
    "first": "#8b98a8",
    "drift": "#f59e0b",
    "tags": "#22a06b",
    "age": "#94a3b8",
    "conflict": "#ec4899",
    "instruction": "#8b5cf6",
    "time_jump": "#ef4444",
    "forced": "#8b98a8",
}
STATUS_COLOURS = {
    "OK": "#22a06b",
    "STALE_REASONING": "#f59e0b",
    "NO_REASONING": "#f59e0b",
    "DEGRADED": "#f59e0b",
    "NO_EMBEDDING": "#ef4444",
    "NO_CAMERA": "#ef4444",
}
CALM = frozenset({"none", "no", "clear", "day", "straight", "unknown"})
"""Answers that mean that nothing is wrong; they are drawn pale."""
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)


@dataclass
class _Canvas:
    """SVG elements from the top downwards."""

    seconds: float
    y: float = 8.0
    parts: list[str] = field(default_factory=list)

    def x(self, seconds: float) -> float:
        return LEFT + PLOT * min(1.0, max(0.0, seconds / self.seconds))

    def name(self, text: str, height: float = ROW) -> None:
        shown = escape(text.replace("_", " "))
        self.parts.append(
            f'<text class="name" x="{LEFT - 10}" y="{self.y + height / 2 + 4:.1f}" '
            f'text-anchor="end">{shown}</text>'
        )

    def bar(
        self,
        begin: float,
        end: float,
        colour: str,
        title: str,
        opacity: float = 1.0,
        inset: float = 0,
    ) -> None:
        left, right = self.x(begin), self.x(end)
        self.parts.append(
            f'<rect x="{left:.1f}" y="{self.y + inset:.1f}" width="{max(0.7, right - left):.1f}" '
            f'height="{ROW - 2 * inset:g}" fill="{colour}" fill-opacity="{opacity:.2f}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def track(self) -> None:
        self.parts.append(
            f'<rect class="track" x="{LEFT}" y="{self.y:.1f}" width="{PLOT}" height="{ROW}"/>'
        )

    def next_row(self, height: float = ROW) -> None:
        self.y += height + GAP

    def heading(self, text: str) -> None:
        self.y += 6
        self.parts.append(f'<text class="head" x="{LEFT}" y="{self.y + 10:.1f}">{text}</text>')
        self.y += 18


def timeline(summary: Summary) -> str:
    """Draw everything that has a course over time, all on one axis."""
    canvas = _Canvas(max(summary.seconds, 1e-3))
    _draw_troubles(canvas, summary)
    _draw_keyframes(canvas, summary)
    _draw_drift(canvas, summary)
    canvas.name("status")
    canvas.track()
    _draw_band(canvas, summary.status, STATUS_COLOURS)
    canvas.next_row()
    if summary.answers:
        canvas.heading("ANSWERS OF THE SLOW PATH")
    for name, course in summary.answers.items():
        canvas.name(name)
        canvas.track()
        _draw_band(canvas, course, {})
        canvas.next_row()
    common = [label for label, _ in summary.tagged.most_common(MOST_TAGS)]
    if common:
        canvas.heading("TAGS OF THE FAST PATH")
    for label in common:
        canvas.name(f"{label} {_percent(summary.tagged[label], summary.frames)}")
        canvas.track()
        _draw_tag(canvas, label, summary.tags[label])
        canvas.next_row()
    bottom = canvas.y
    axis = _axis(canvas, bottom)
    body = "".join([axis, *canvas.parts])
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {bottom + 26:.0f}" role="img" '
        f'aria-label="time line">{body}</svg>'
    )


def colour_of(value: str) -> str:
    """A colour for an answer, always the same for the same word."""
    known = {"red": "#ef4444", "green": "#22a06b", "yellow": "#f5c211"}
    if (first := value.split(maxsplit=1)[0] if value.split() else "") in known:
        return known[first]
    if value in CALM:
        return "#9fb3c8"
    digest = hashlib.sha256(value.encode()).digest()
    red, green, blue = colorsys.hls_to_rgb(digest[0] / 255, 0.58, 0.55)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def clock(seconds: float) -> str:
    """Seconds as people read them on a time line."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return (
        f"{int(hours)}:{int(minutes):02d}:{rest:04.1f}" if hours else f"{int(minutes)}:{rest:04.1f}"
    )


def leap_text(seconds: float) -> str:
    """A note about a jump of the recording's time, which the axis leaves out."""
    where = "later" if seconds > 0 else "earlier"
    return (
        f"the recording continues {clock(abs(seconds))} {where}: its clock was set, or it was "
        "paused"
    )


def _draw_troubles(canvas: _Canvas, summary: Summary) -> None:
    gaps = summary.gaps()
    if not (gaps or summary.faults or summary.jumps or summary.axis.leaps):
        return
    canvas.name("missing, broken")
    canvas.track()
    for began, length, count in gaps:
        canvas.bar(
            began, began + length, "#f59e0b", f"{clock(began)}: about {count} frames missing"
        )
    for when, kind, text, frame in summary.faults:
        canvas.bar(when, when, "#ef4444", f"{clock(when)}: frame {frame}, {kind}: {text}")
    for when, over in summary.axis.leaps:
        canvas.bar(when, when, "#8b5cf6", f"{clock(when)}: {leap_text(over)}")
    for when in summary.jumps:
        canvas.bar(when, when, "#8b5cf6", f"{clock(when)}: time jumped back")
    canvas.next_row()


def _draw_keyframes(canvas: _Canvas, summary: Summary) -> None:
    canvas.name("key frames")
    canvas.track()
    for each in summary.keyframes:
        x, colour = canvas.x(each.seconds), TRIGGER_COLOURS.get(each.trigger, "#8b98a8")
        title = escape(f"{clock(each.seconds)}: {each.trigger}\n{each.caption}")
        canvas.parts.append(
            f'<a href="#k{each.number}"><path d="M{x:.1f} {canvas.y + 2:.1f}v{ROW - 4}" '
            f'stroke="{colour}" stroke-width="2.5" stroke-linecap="round">'
            f"<title>{title}</title></path></a>"
        )
    canvas.next_row()


def _draw_drift(canvas: _Canvas, summary: Summary) -> None:
    slots = summary.drift.slots
    top = max((slot[0] for slot in slots if slot), default=0.0)
    if not top:
        return
    canvas.name("drift", DRIFT_HEIGHT)
    base = canvas.y + DRIFT_HEIGHT
    points = [f"{LEFT},{base:.1f}"]
    last = 0.0
    for index, slot in enumerate(slots):
        last = slot[0] if slot else last
        x = canvas.x((index + 0.5) * summary.drift.slot_s)
        points.append(f"{x:.1f},{base - last / top * (DRIFT_HEIGHT - 6):.1f}")
    points.append(f"{canvas.x(summary.seconds):.1f},{base:.1f}")
    canvas.parts.append(
        f'<rect class="track" x="{LEFT}" y="{canvas.y:.1f}" width="{PLOT}" height="{DRIFT_HEIGHT}" '
        f'rx="3"/><polygon class="drift" points="{" ".join(points)}"><title>cosine distance from '
        f"the anchor, at most {top:.3g}</title></polygon>"
        f'<text class="small" x="{LEFT + 5}" y="{canvas.y + 12:.1f}">{top:.2g}</text>'
    )
    canvas.next_row(DRIFT_HEIGHT)


def _draw_band(canvas: _Canvas, course: Course[Counter[str]], colours: dict[str, str]) -> None:
    """A band that has the colour of the commonest value of each slot; equal ones are joined."""
    for begin, end, value in _segments(course):
        colour = colours.get(value) or colour_of(value)
        pale = 0.35 if value in CALM else 0.9
        stop = min(end, canvas.seconds)
        canvas.bar(begin, stop, colour, f"{value}: {clock(begin)} to {clock(stop)}", pale)
        room = canvas.x(stop) - canvas.x(begin)
        if room > len(value) * LETTER + 8:
            kind = "value" if value in CALM else "value strong"
            canvas.parts.append(
                f'<text class="{kind}" x="{canvas.x(begin) + 5:.1f}" y="{canvas.y + 14:.1f}">'
                f"{escape(value.replace('_', ' '))}</text>"
            )


def _segments(course: Course[Counter[str]]) -> list[tuple[float, float, str]]:
    """Begin, end and value; a slot without a frame belongs to the one before."""
    segments: list[tuple[float, float, str]] = []
    for index, slot in enumerate(course.slots):
        begin, end = index * course.slot_s, (index + 1) * course.slot_s
        value = max(slot, key=lambda each: slot[each]) if slot else None
        if segments and value in (None, segments[-1][2]):
            segments[-1] = (segments[-1][0], end, segments[-1][2])
        elif value is not None:
            segments.append((begin, end, value))
    return segments


def _draw_tag(canvas: _Canvas, label: str, course: Course[list[float]]) -> None:
    for begin, end, score in _runs(course):
        title = f"{label}: {clock(begin)} to {clock(min(end, canvas.seconds))}, up to {score:.2f}"
        canvas.bar(begin, min(end, canvas.seconds), colour_of(label), title, 0.25 + 0.7 * score, 3)


def _runs(course: Course[list[float]]) -> list[tuple[float, float, float]]:
    """Begin, end and highest score of each time that a label was there without a pause."""
    runs: list[tuple[float, float, float]] = []
    # Slots shorter than the interval of the frames are empty in between.
    pause = max(2.5 * course.slot_s, 0.25)
    for index, slot in enumerate(course.slots):
        if not slot:
            continue
        begin, end = index * course.slot_s, (index + 1) * course.slot_s
        if runs and begin - runs[-1][1] < pause and abs(runs[-1][2] - slot[0]) < 0.2:
            runs[-1] = (runs[-1][0], end, max(runs[-1][2], slot[0]))
        elif runs and begin - runs[-1][1] < pause:
            runs.append((runs[-1][1], end, slot[0]))
        else:
            runs.append((begin, end, slot[0]))
    return runs


def _axis(canvas: _Canvas, bottom: float) -> str:
    hours = 3600 * math.ceil(canvas.seconds / (12 * 3600))
    step = next((each for each in STEPS_S if canvas.seconds / each <= 12), hours)
    lines = []
    for index in range(int(canvas.seconds / step) + 1):
        x = canvas.x(index * step)
        lines.append(
            f'<path class="grid" d="M{x:.1f} 4V{bottom:.1f}"/><text class="small" x="{x:.1f}" '
            f'y="{bottom + 14:.1f}" text-anchor="middle">{clock(index * step)}</text>'
        )
    return "".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"
