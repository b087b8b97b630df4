# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Hands embeddings from node to node within one process, as they are and past the middleware."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vlm_perception.types import Embedding

Reader = Callable[[Embedding, float], None]
"""Gets an embedding and the seconds that the encoder has spent on it."""

_lock = threading.Lock()
_readers: dict[str, list[Reader]] = {}


def offer(topic: str) -> None:
    """Say that embeddings of this topic, by its full name, are given within the process."""
    with _lock:
        _readers.setdefault(topic, [])


def is_offered(topic: str) -> bool:
    """Whether a node of this process gives the embeddings of this topic."""
    with _lock:
        return topic in _readers


def read(topic: str, reader: Reader) -> Callable[[], None]:
    """Get each embedding in the thread of the node that gives it, and never change its arrays.

    Returns:
        What ends it.
    """
    with _lock:
        _readers[topic].append(reader)

    def end() -> None:
        with _lock:
            _readers[topic].remove(reader)

    return end


def give(topic: str, embedding: Embedding, spent_s: float) -> None:
    """Hand an embedding to the readers of this process."""
    with _lock:
        readers = list(_readers.get(topic, ()))
    for reader in readers:
        reader(embedding, spent_s)
