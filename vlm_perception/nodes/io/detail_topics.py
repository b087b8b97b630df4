# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The topics that belong to a topic of embeddings, wherever that was remapped to."""

from __future__ import annotations


def want_topic(embeddings: str, *, image: bool = False) -> str:
    """Where the detail of a frame, or its image, is asked for."""
    return f"{embeddings}/want_image" if image else f"{embeddings}/want"


def detail_topic(embeddings: str, *, image: bool = False) -> str:
    """Where it is sent."""
    return f"{embeddings}/image" if image else f"{embeddings}/detail"
