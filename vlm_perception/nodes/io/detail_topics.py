# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The topics that belong to a topic of embeddings, wherever that was remapped to."""

from __future__ import annotations


def want_topic(embeddings: str) -> str:
    """Where the detail of a frame is asked for."""
    return f"{embeddings}/want"


def detail_topic(embeddings: str) -> str:
    """Where it is sent."""
    return f"{embeddings}/detail"
