# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What was found of captions, in words and figures for the report."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from vlm_perception.curation.captioning.caption_examples import answer_line
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.quality.checked import (
    BELOW_ACCEPT,
    BELOW_REJECT,
    CONTRADICTED,
    INCOMPLETE,
    LANGUAGE,
    NO_CAPTION,
    UNALIGNED,
    UNTRANSLATED,
)
from vlm_perception.curation.stage_folder import KEPT, REJECTED
from vlm_perception.curation.tasks import Record

QUALITY_RULES = {
    BELOW_REJECT: "score below reject",
    BELOW_ACCEPT: "score not above accept, and no further try of the captioner",
    CONTRADICTED: "names what the tagger is sure is absent",
    INCOMPLETE: "does not name what the tagger is sure is there",
    NO_CAPTION: "without a caption",
    LANGUAGE: "in a language that nothing in the recipe can check",
    UNTRANSLATED: "in another language, without a good caption to compare with",
    UNALIGNED: "no translation of a good caption: cosine below min_cosine",
}


def caption_lines(record: Record) -> list[str]:
    """Each caption of a record with what was found of it, then those that were left out.

    At the end stand the attempts to write one that gave none.
    """
    captions = [*record.get("captions", ()), *record.get("left_out", ())]
    answers = record.get("answers", ())
    return [*map(_line, captions), *map(answer_line, answers)]


def _line(caption: dict[str, Any]) -> str:
    found = [f"{caption[key]:g}" for key in ("score", "alignment") if key in caption]
    if caption.get("cut"):
        found.append("longer than the encoder reads: cut")
    if "contradicts" in caption:
        found.append("names what is absent: " + ", ".join(caption["contradicts"]))
    if "omits" in caption:
        found.append("does not name what is there: " + ", ".join(caption["omits"]))
    if "rule" in caption:
        found.append(f"left out: {QUALITY_RULES[caption['rule']]}")
    told = f" ({'; '.join(found)})" if found else ""
    return f"{caption['language']}: {caption['text']}{told}"


def pairs_by_language(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """By pair of languages, as `de to en`, how many captions were compared and how many passed."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        for caption in (*record.get("captions", ()), *record.get("left_out", ())):
            if "alignment" in caption:
                pair = f"{caption['language']} to {caption['translates']}"
                counts = found.setdefault(pair, {"compared": 0, "passed": 0})
                counts["compared"] += 1
                counts["passed"] += "rule" not in caption
    return dict(sorted(found.items()))


def alignment(stage: Path) -> list[str]:
    """A sentence for each pair of languages that 03_quality_checked has compared.

    Args:
        stage: its folder.
    """
    records = chain.from_iterable(read_lines(stage / file) for file in (KEPT, REJECTED))
    return [
        f"captions in {pair}: {counts['passed']} of {counts['compared']} are translations"
        for pair, counts in pairs_by_language(records).items()
    ]
