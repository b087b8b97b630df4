# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Samples of a set: the same for the same images, wherever these stand."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from vlm_perception.curation.tasks import Record


def lot(record: Record, seed: int | str) -> int:
    """Which place an image has drawn, by its digest: the lowest are taken first."""
    return int(hashlib.sha256(f"{seed} {record['sha256']}".encode()).hexdigest(), 16)


def drawn(records: Iterable[Record], most: int, seed: int | str) -> list[Record]:
    """So many records at most, in the order of their lots."""
    return heapq.nsmallest(most, records, key=lambda record: lot(record, seed))
