# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The locations topic: what language_reasoner follows, as long as that is the present."""

from __future__ import annotations

import time
from typing import Any

from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.tables import LOCATIONS
from vlm_perception.msg import LocatedObjects
from vlm_perception.nodes.io.qos import newest, subscribe
from vlm_perception.perception.locating.tracking import UNSEEN_S
from vlm_perception.types import LocatedObjects as Objects

PRESENT_S = UNSEEN_S
"""Older messages are not shown: whoever follows would have told by then what is lost."""


class LocationsInput:
    """Keeps the newest message."""

    def __init__(self, node: Any) -> None:
        """Subscribe."""
        self._node = node
        self._kept: tuple[Objects, float] | None = None
        self._subscription = subscribe(node, LocatedObjects, "locations", self._take, newest(1))

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def current(self) -> Objects | None:
        """What is followed now; None: nothing."""
        kept = self._kept
        if kept is None or time.monotonic() - kept[1] > PRESENT_S:
            return None
        return kept[0]

    def forget(self) -> None:
        """Show nothing of what came until now."""
        self._kept = None

    def _take(self, message: Any) -> None:
        try:
            self._kept = LOCATIONS.read(message), time.monotonic()
        except MessageError as error:
            topic = self._node.resolve_topic_name("locations")
            self._node.warnings.add("bad_locations", f"locations on {topic} were skipped: {error}")
