# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report on a set: figures of each stage, and examples of what was kept and rejected."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2

from vlm_perception.curation.captioning.telling import failed_examples, written_examples
from vlm_perception.curation.copy_table import copy_table
from vlm_perception.curation.durable import read_lines, write_bytes
from vlm_perception.curation.image_files import decode
from vlm_perception.curation.quality.retrieval_check import read_check
from vlm_perception.curation.quality.telling import (
    QUALITY_RULES,
    caption_lines,
    mean_score,
    pairs_by_language,
)
from vlm_perception.curation.recipe import CurationError, read_recipe
from vlm_perception.curation.run import read_times, told
from vlm_perception.curation.stage_folder import (
    CAPTIONED,
    FAILED,
    FILTERED,
    KEPT,
    QUALITY,
    RAW,
    STAGES,
    Manifest,
    before,
    read_manifest,
    why_stale,
)
from vlm_perception.curation.tasks import Record
from vlm_perception.outputs.page import page_template

REPORT = "report.html"
EXAMPLES = 8
"""Of each rule."""
LISTED = 50
"""Failed images."""
COUNTS = {"name", "received", "kept", "rejected", "failed", "rules", "faults", "written"}
THUMBNAIL = 188
"""Pixels across."""
BUCKETS = (224, 448, 896, 1792)
"""Pixels of the shorter side, at which buckets begin."""
RULES = {
    "kept": "kept",
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
    """JPEG files in base64."""
    path: str
    figure: str
    captions: list[str]
    """With what was found of each."""


def figures(folder: Path) -> dict[str, Any]:
    """The figures of the stages that are complete.

    Raises:
        CurationError: none is.
    """
    made = _made(folder)
    times = read_times(folder)
    stages = [
        {
            **each.model_dump(include=COUNTS),
            "rejection_rate": each.rejected / each.received if each.received else 0.0,
            "mean_quality": mean_score(_lines(folder, each.name, KEPT)),
            "images_per_second_per_core": _rate(times.get(each.name)),
        }
        for each in made
    ]
    total = {
        "images": times.get(RAW, {}).get("images", 0),
        "cpu_s": sum(each["cpu_s"] for each in times.values()),
    }
    sizes: Counter[str] = Counter(dict.fromkeys(_bucket_names(), 0))
    for record in _lines(folder, made[-1].name, KEPT):
        sizes[_bucket(record)] += 1
    filtered = next((each for each in made if each.name == FILTERED), None)
    return {
        "stages": stages,
        "dedup": copy_table(folder, read_recipe(folder), filtered) if filtered else [],
        "images_per_second_per_core": _rate(total),
        "images_per_size_bucket": dict(sizes),
        **_quality_figures(folder, made),
    }


def write_report(folder: Path) -> Path:
    """Write report.html, which needs nothing else.

    Raises:
        CurationError: no stage is complete.
        OSError: it cannot be written.
    """
    known = figures(folder)
    made = _made(folder)
    template = page_template("vlm_perception.curation", "report.html.j2")
    page = template.render(
        name=folder.resolve().name,
        figures=known,
        stale=stale_stages(folder),
        groups=[*_groups(folder, made), *_captioned(folder, made)],
        worst=_worst(folder, made),
        failed=list(_failed(folder, made)),
        listed=LISTED,
    )
    write_bytes(folder / REPORT, page.encode("utf-8", "backslashreplace"))
    return folder / REPORT


def summary(folder: Path) -> list[str]:
    """A line for each stage that is complete."""
    known = [f"{each.name}: {told(each)}" for each in _made(folder)]
    return [*known, *stale_stages(folder)]


def stale_stages(folder: Path) -> list[str]:
    """A sentence for each stage that is left out, as it or one before it is stale."""
    recipe, sentences = read_recipe(folder), list[str]()
    for stage in STAGES:
        manifest = read_manifest(folder, stage)
        why = why_stale(folder, stage, manifest, recipe) if manifest else ""
        if manifest and (why or sentences):
            why = why or f"{before(stage)} is stale"
            sentences.append(f"{stage} is left out, it is stale ({why}); --redo {stage} makes it")
    return sentences


def _made(folder: Path) -> list[Manifest]:
    """The stages that are complete and not stale, which are the first ones."""
    stale = stale_stages(folder)
    found = [read_manifest(folder, stage) for stage in STAGES]
    made = [each for each in found if each is not None]
    made = made[: len(made) - len(stale)]
    if not made and stale:
        raise CurationError(stale[0])
    if not made:
        raise CurationError(
            f"{folder} has no complete stage; `vlm-perception curate run {folder}` makes them"
        )
    return made


def _rate(time: dict[str, float] | None) -> float | None:
    return round(time["images"] / time["cpu_s"], 1) if time and time["cpu_s"] else None


def _bucket_names() -> list[str]:
    bounds = [*map(str, BUCKETS)]
    pairs = zip(bounds[:-1], BUCKETS[1:], strict=True)
    return [f"<{BUCKETS[0]}", *(f"{a}-{b - 1}" for a, b in pairs), f">={BUCKETS[-1]}"]


def _bucket(record: Record) -> str:
    side = min(record["width"], record["height"])
    return _bucket_names()[sum(1 for bound in BUCKETS if side >= bound)]


def _groups(folder: Path, made: list[Manifest]) -> Iterator[tuple[str, int, list[Example]]]:
    """What was kept, and what was rejected by each rule: heading, count, examples.

    Kept are those of the last stage that has rules, and rejected those of each.
    """
    judging = [each for each in made if each.name in (FILTERED, QUALITY)]
    for manifest in judging:
        wanted = dict(manifest.rules)
        if manifest is judging[-1]:
            wanted = {"kept": manifest.kept, **wanted}
        chosen: dict[str, list[Record]] = {rule: [] for rule in wanted}
        seen: Counter[str] = Counter()
        for file in (KEPT, "rejected.jsonl"):
            for record in _lines(folder, manifest.name, file):
                rule = record.get("rule", "kept")
                if rule in wanted and seen[rule] in _spread(wanted[rule]):
                    chosen[rule].append(record)
                seen[rule] += 1
        stayed = {each["stayed"] for some in chosen.values() for each in some if "stayed" in each}
        kept = _lines(folder, manifest.name, KEPT) if stayed else ()
        others = {each["id"]: each for each in kept if each["id"] in stayed}
        for rule, records in chosen.items():
            examples = [_example(folder, record, others) for record in records]
            yield RULES[rule], wanted[rule], examples


def _captioned(folder: Path, made: list[Manifest]) -> Iterator[tuple[str, int, list[Example]]]:
    """New captions by their model, and images without one by the kind of fault."""
    for manifest in (each for each in made if each.name == CAPTIONED):
        kept, failed = (_lines(folder, CAPTIONED, file) for file in (KEPT, FAILED))
        for heading, count, shown in (
            *written_examples(manifest.written, kept, EXAMPLES),
            *failed_examples(manifest.faults, failed, EXAMPLES),
        ):
            examples = [
                Example([_thumbnail(folder / record["file"])], record["path"], "", lines)
                for record, lines in shown
            ]
            yield heading, count, examples


def _worst(folder: Path, made: list[Manifest]) -> tuple[str, list[Example]]:
    """What the retrieval check has found, and the images whose caption came last."""
    found = read_check(folder) if QUALITY in [each.name for each in made] else None
    if found is None:
        return "", []
    examples = [_example(folder, {**each, "figure": each["rank"]}, {}) for each in found.worst]
    return found.told, examples


def _quality_figures(folder: Path, made: list[Manifest]) -> dict[str, Any]:
    if QUALITY not in [each.name for each in made]:
        return {}
    check = read_check(folder)
    records = chain(_lines(folder, QUALITY, KEPT), _lines(folder, QUALITY, "rejected.jsonl"))
    return {
        "retrieval_check": check and check.model_dump(exclude={"worst"}),
        "translations": pairs_by_language(records),
    }


def _spread(count: int) -> set[int]:
    """Places of the examples among all images of a rule."""
    return {place * count // EXAMPLES for place in range(EXAMPLES)} if count else set()


def _example(folder: Path, record: Record, others: dict[int, Record]) -> Example:
    shown = [record, *([others[record["stayed"]]] if "stayed" in record else [])]
    figure = f"{record['figure']:g}" if "figure" in record else ""
    images = [_thumbnail(folder / each["file"]) for each in shown]
    return Example(images, record["path"], figure, caption_lines(record))


def _thumbnail(file: Path) -> str:
    pixels = cv2.cvtColor(decode(file.read_bytes()), cv2.COLOR_RGB2BGR)
    height, width = pixels.shape[:2]
    size = (THUMBNAIL, max(1, min(2 * THUMBNAIL, round(height * THUMBNAIL / width))))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(bytes(cv2.imencode(".jpg", small)[1])).decode()


def _failed(folder: Path, made: list[Manifest]) -> Iterator[tuple[str, str, str]]:
    for each in made:
        for record in _lines(folder, each.name, FAILED):
            yield each.name, record["path"], record["reason"]


def _lines(folder: Path, stage: str, file: str) -> Iterator[Any]:
    return read_lines(folder / stage / file)
