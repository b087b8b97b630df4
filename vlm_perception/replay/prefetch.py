# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Lets a second core read and decode the next images while the first perceives."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
DEPTH = 4
"""Items that are made before they are asked for."""


def ahead(items: Generator[ItemT, None, None]) -> Iterator[ItemT]:
    """The same items in the same order; a thread of their own makes them.

    The thread also ends the generator, since SQLite's connections belong to one thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as pool:
        try:
            coming: deque[Future[ItemT | None]] = deque(
                pool.submit(next, items, None) for _ in range(DEPTH)
            )
            while (item := coming.popleft().result()) is not None:
                coming.append(pool.submit(next, items, None))
                yield item
        finally:
            pool.submit(items.close).result()
