# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A mailbox that keeps only the newest item of each sender, and the thread that works on it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from vlm_perception.engines.steps import Work, step
from vlm_perception.nodes.process.niceness import give_way
from vlm_perception.nodes.process.watchdog import Watchdog

ItemT = TypeVar("ItemT")


class Mailbox(Generic[ItemT]):
    """Room for one item of each sender: a newer one replaces it, so work is done on the newest.

    The senders take turns: who waits is served before anybody else is for a second time.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._condition = threading.Condition()
        self._items: dict[str, ItemT] = {}
        self._closed = False
        self._dropped: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """Items that were replaced before anybody took them."""
        with self._condition:
            return self._dropped.total()

    def dropped_of(self, sender: str) -> int:
        """As `dropped`, of one sender."""
        with self._condition:
            return self._dropped[sender]

    def put(self, item: ItemT, sender: str = "") -> bool:
        """Store the item in place of the sender's last one, which keeps its place in the line.

        Returns:
            Whether there was one, which is dropped.
        """
        with self._condition:
            drops = sender in self._items
            self._dropped[sender] += drops
            self._items[sender] = item
            self._condition.notify()
        return drops

    def take(self) -> ItemT | None:
        """Wait for an item and take that of who has waited longest; None when closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._items)
            if self._closed:
                return None
            return self._items.pop(next(iter(self._items)))

    def close(self) -> None:
        """Wake the threads that wait in take()."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Worker(Generic[ItemT]):
    """A thread that handles the newest items of a mailbox, at a limited rate."""

    def __init__(
        self,
        name: str,
        handle: Callable[[ItemT], bool | None],
        on_error: Callable[[BaseException], None],
        watchdog: Watchdog,
        *,
        interval: Callable[[], float] = lambda: 0.0,
        niceness: int | None = None,
    ) -> None:
        """Prepare the thread.

        Args:
            name: Name of the thread.
            handle: Called with each item, in the thread; False: it came to nothing, and the next
                one is taken without waiting for the interval.
            on_error: Called with what handle raised; the thread goes on.
            watchdog: Looks at how long each item takes.
            interval: Shortest time between two calls of handle, in seconds.
            niceness: How far the thread gives way to others, 0 to 19; None: as it was started.
        """
        self.mailbox: Mailbox[ItemT] = Mailbox()
        self._handle = handle
        self._on_error = on_error
        self._watchdog = watchdog
        self._interval = interval
        self._niceness = niceness
        self._stopping = threading.Event()
        self._work: Work | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end_step(self) -> bool:
        """End what is waited for within the item in hand; false where that cannot be done."""
        work = self._work
        return work is not None and work.end_step()

    def stop(self, timeout: float, *, at_once: bool = False) -> bool:
        """End the thread after the item in hand, or in it; false when it did not end in time."""
        self._stopping.set()
        self.mailbox.close()
        if at_once:
            self._watchdog.end_steps()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._niceness is not None:
            give_way(self._niceness)
        with self._watchdog.watch(self._thread.name) as self._work:
            self._handle_items()

    def _handle_items(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            item = self.mailbox.take()
            if item is None:
                return
            # Counting from the due time keeps the mean rate when a tick starts late.
            now, interval = time.monotonic(), self._interval()
            last, due = due, due + interval if due + interval > now else now + interval
            try:
                with step("processing one input"):
                    if self._handle(item) is False:
                        due = last
            # Whatever it is: without this thread the node would be deaf.
            except BaseException as error:
                self._on_error(error)
