# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Hands embeddings from node to node within one process, past the middleware."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_readers: dict[str, list[Callable[[Any], None]]] = {}


def offer(topic: str) -> None:
    """Say that messages of this topic, by its full name, are given within the process."""
    with _lock:
        _readers.setdefault(topic, [])


def is_offered(topic: str) -> bool:
    """Whether a node of this process gives the messages of this topic."""
    with _lock:
        return topic in _readers


def read(topic: str, on_message: Callable[[Any], None]) -> Callable[[], None]:
    """Get each message in the thread of the node that gives it, and never change it.

    Returns:
        What ends it.
    """
    with _lock:
        _readers[topic].append(on_message)

    def end() -> None:
        with _lock:
            _readers[topic].remove(on_message)

    return end


def give(topic: str, message: Any) -> None:
    """Hand a message to the readers of this process."""
    with _lock:
        readers = list(_readers.get(topic, ()))
    for reader in readers:
        reader(message)
