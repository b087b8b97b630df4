# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What changed between two scene logs, in words, and whether it is more than was accepted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from vlm_perception.replay.compare.comparable import Outputs, read_outputs
from vlm_perception.replay.compare.tolerances import Tolerances, load_tolerances
from vlm_perception.replay.report.scene_log import Record
from vlm_perception.replay.report.timeline_svg import clock

DIFFERENT = 1
LISTED = 8


@dataclass(frozen=True)
class Finding:
    """One comparison: how far apart the logs are, and how far they may be."""

    what: str
    difference: float
    accepted: float
    text: str
    unit: str = ""
    """Empty: the difference is a share of all that was compared."""

    @property
    def within(self) -> bool:
        """Whether that is accepted."""
        return self.difference <= self.accepted


def run_compare(first: Path, second: Path, tolerances: Path | None, console: Console) -> int:
    """Compare two logs or bags and print what changed.

    Returns:
        0 when everything is within the tolerances, else DIFFERENT.

    Raises:
        ReplayError: one of the files cannot be used.
    """
    accepted = load_tolerances(tolerances) if tolerances else Tolerances()
    a, b = read_outputs(first), read_outputs(second)
    findings = compare(a, b, accepted)
    for side in (a, b):
        if not side.whole:
            console.print(f"note: {side.name} is incomplete", style="yellow", markup=False)
    for name in sorted(set(a.context) & set(b.context)):
        if a.context[name] != b.context[name]:
            text = f"{name}: {a.context[name]} -> {b.context[name]}"
            console.print(text, style="dim", soft_wrap=True, markup=False, highlight=False)
    for finding in findings:
        mark, style = ("=", "dim") if not finding.difference else ("~", "")
        if not finding.within:
            mark, style = "!", "red"
        console.print(
            f"{mark} {finding.text}", style=style, soft_wrap=True, markup=False, highlight=False
        )
    beyond = [finding.what for finding in findings if not finding.within]
    if beyond:
        console.print(
            f"DIFFERENT: {', '.join(beyond)}", style="bold red", soft_wrap=True, markup=False
        )
        return DIFFERENT
    console.print(f"same within the tolerances: {len(findings)} comparisons", style="green")
    return 0


def compare(a: Outputs, b: Outputs, accepted: Tolerances) -> list[Finding]:
    """Compare frame by frame, by the stamps.

    Args:
        a: what is taken as given.
        b: what may have changed.
        accepted: how far they may differ.
    """
    common = [stamp for stamp in a.frames if stamp in b.frames]
    pairs = [(a.frames[stamp], b.frames[stamp]) for stamp in common]
    origin = min(a.frames)
    return [
        _frames(a, b, len(common), accepted),
        *_tags(pairs, accepted),
        *_attributes(pairs, origin, accepted),
        _equal(pairs, "caption", "captions", accepted.captions),
        _equal(pairs, "status", "status", accepted.status),
        _keyframes(a, b, accepted),
        *_latencies(pairs, accepted),
    ]


def _frames(a: Outputs, b: Outputs, common: int, accepted: Tolerances) -> Finding:
    only_a, only_b = len(a.frames) - common, len(b.frames) - common
    share = (only_a + only_b) / (common + only_a + only_b)
    text = f"frames: {common} in both, {only_a} only in the first, {only_b} only in the second"
    return Finding("frames", share, accepted.frames, text)


def _tags(pairs: list[tuple[Record, Record]], accepted: Tolerances) -> list[Finding]:
    lost: Counter[str] = Counter()
    gained: Counter[str] = Counter()
    either = 0
    differences = []
    for a, b in pairs:
        lost.update(a["tags"].keys() - b["tags"].keys())
        gained.update(b["tags"].keys() - a["tags"].keys())
        either += len(a["tags"].keys() | b["tags"].keys())
        differences += [abs(a["tags"][x] - b["tags"][x]) for x in a["tags"].keys() & b["tags"]]
    changed = lost.total() + gained.total()
    words = [f"{label} lost in {count} frames" for label, count in lost.most_common(LISTED)]
    words += [f"{label} new in {count} frames" for label, count in gained.most_common(LISTED)]
    said = f": {', '.join(words)}" if words else ""
    high = float(np.percentile(differences, 95)) if differences else 0.0
    return [
        Finding(
            "tags", _share(changed, either), accepted.tags, f"tags: {changed} of {either}{said}"
        ),
        Finding(
            "scores",
            high,
            accepted.scores,
            f"scores of common tags: p95 of difference {high:.4f}",
            "p95",
        ),
    ]


def _attributes(
    pairs: list[tuple[Record, Record]], origin: int, accepted: Tolerances
) -> list[Finding]:
    findings = []
    names = {name: None for a, b in pairs for name in (*a["attributes"], *b["attributes"])}
    for name in names:
        changes: Counter[tuple[str, str]] = Counter()
        first = None
        for a, b in pairs:
            was, now = (each["attributes"].get(name, ("nothing",))[0] for each in (a, b))
            if was != now:
                changes[was, now] += 1
                first = a["stamp"] if first is None else first
        count = changes.total()
        text = f"{name}: {count} of {len(pairs)} frames differ"
        if first is not None:
            how = ", ".join(f"{was} -> {now} ({n})" for (was, now), n in changes.most_common(3))
            text += f", first at {clock((first - origin) * 1e-9)}: {how}"
        findings.append(Finding(name, _share(count, len(pairs)), accepted.attributes, text))
    return findings


def _equal(pairs: list[tuple[Record, Record]], key: str, what: str, accepted: float) -> Finding:
    changes = Counter((a[key], b[key]) for a, b in pairs if a[key] != b[key])
    count = changes.total()
    text = f"{what}: {count} of {len(pairs)} frames differ"
    if changes:
        (was, now), often = changes.most_common(1)[0]
        text += f", most often {was!r} -> {now!r} ({often})"
    return Finding(what, _share(count, len(pairs)), accepted, text)


def _keyframes(a: Outputs, b: Outputs, accepted: Tolerances) -> Finding:
    alone = [_without_partner(*sides, accepted.keyframe_s) for sides in ((a, b), (b, a))]
    total = len(a.keyframes) + len(b.keyframes)
    text = (
        f"key frames: {len(a.keyframes)} and {len(b.keyframes)}; without a counterpart within "
        f"{accepted.keyframe_s:g} s: {alone[0]} and {alone[1]}"
    )
    triggers = [Counter(trigger for _, trigger in side.keyframes) for side in (a, b)]
    if triggers[0] != triggers[1]:
        text += f"; {_listed(triggers[0])} became {_listed(triggers[1])}"
    return Finding("key frames", _share(sum(alone), total), accepted.keyframes, text)


def _without_partner(a: Outputs, b: Outputs, seconds: float) -> int:
    others = sorted(stamp for stamp, _ in b.keyframes)
    alone = 0
    for stamp, _ in a.keyframes:
        place = bisect_left(others, stamp)
        near = others[max(0, place - 1) : place + 1]
        alone += not any(abs(other - stamp) <= seconds * 1e9 for other in near)
    return alone


def _latencies(pairs: list[tuple[Record, Record]], accepted: Tolerances) -> list[Finding]:
    findings = []
    names = {name: None for a, b in pairs for name in a["latency"] if name in b["latency"]}
    for name in names:
        medians = [
            1e3
            * float(
                np.median(
                    [pair[side]["latency"][name] for pair in pairs if name in pair[side]["latency"]]
                )
            )
            for side in (0, 1)
        ]
        text = f"{name}, median: {medians[0]:.1f} ms and {medians[1]:.1f} ms"
        difference = abs(medians[1] - medians[0])
        findings.append(Finding(name, difference, accepted.latency_ms, text, "ms"))
    return findings


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _listed(triggers: Counter[str]) -> str:
    return ", ".join(f"{count} {trigger}" for trigger, count in triggers.most_common())
