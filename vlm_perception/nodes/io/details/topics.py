# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The topics that belong to a topic of embeddings, wherever that was remapped to."""

from __future__ import annotations

from vlm_perception.perception.details import Kind


def want_topic(embeddings: str, kind: Kind = Kind.MODEL) -> str:
    """Where it is asked for."""
    return f"{embeddings}/want" if kind is Kind.MODEL else f"{embeddings}/want_{kind.value}"


def detail_topic(embeddings: str, kind: Kind = Kind.MODEL) -> str:
    """Where it is sent."""
    return f"{embeddings}/{kind.value}"
