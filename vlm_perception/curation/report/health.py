# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How healthy what a stage has kept is: sizes, captions, languages, recordings."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from vlm_perception.curation.final.groups import recording
from vlm_perception.curation.tasks import Record

BUCKETS = (224, 448, 896, 1792)
"""Pixels of the shorter side, at which buckets begin."""
NAMED = 20
"""Recordings that are named, those with most images."""


def health(records: Iterable[Record]) -> dict[str, Any]:
    """Figures of kept images, as JSON.

    Args:
        records: of the images, each looked at once.
    """
    sizes = Counter(dict.fromkeys(bucket_names(), 0))
    languages, splits = Counter[str](), Counter[str]()
    recordings: Counter[tuple[int, str]] = Counter()
    words, scores = array("l"), array("d")
    images = captioned = 0
    for record in records:
        images += 1
        sizes[_bucket(record)] += 1
        recordings[record["source"], recording(record)] += 1
        captions = record.get("captions", ())
        captioned += bool(captions)
        for caption in captions:
            languages[caption["language"]] += 1
            words.append(len(caption["text"].split()))
            if "score" in caption:
                scores.append(caption["score"])
        if "split" in record:
            splits[record["split"]] += 1
    return {
        "images": images,
        "images_per_size_bucket": dict(sizes),
        "images_with_captions": captioned,
        "caption_words": _quantiles(words),
        "captions_per_language": dict(languages.most_common()),
        "images_per_recording": [
            {"source": source, "recording": name, "images": count, "share": count / images}
            for (source, name), count in recordings.most_common(NAMED)
        ],
        "recordings": len(recordings),
        "images_per_split": dict(splits),
        "mean_quality": float(np.mean(scores)) if scores else None,
    }


def bucket_names() -> list[str]:
    """Of the sizes, the smallest first."""
    pairs = pairwise(BUCKETS)
    return [f"<{BUCKETS[0]}", *(f"{a}-{b - 1}" for a, b in pairs), f">={BUCKETS[-1]}"]


def _bucket(record: Record) -> str:
    side = min(record["width"], record["height"])
    return bucket_names()[sum(1 for bound in BUCKETS if side >= bound)]


def _quantiles(words: array[int]) -> dict[str, float | None]:
    """Of the lengths of captions, in words, which blanks divide."""
    if not words:
        return dict.fromkeys(("p5", "median", "p95"))
    low, middle, high = np.percentile(np.frombuffer(words, np.int64), (5, 50, 95))
    return {"p5": float(low), "median": float(middle), "p95": float(high)}
