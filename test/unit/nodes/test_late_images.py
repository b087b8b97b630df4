# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Of an image that is late a node names the cause: a wrong clock, or an encoder that is slow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.context import Context

from vlm_perception.nodes.base.throttled_warnings import ThrottledWarnings
from vlm_perception.nodes.base.time_jump import TimeWatch

SECOND = 1_000_000_000


@pytest.fixture
def watched() -> Iterator[tuple[TimeWatch, ThrottledWarnings]]:
    """A watch on a node's clock, and where it warns."""
    context = Context()
    context.init(args=[])
    node = rclpy.create_node("watching", context=context)
    warnings = ThrottledWarnings(node.get_logger())
    watch = TimeWatch(node, warnings, lambda: None, lambda _: None)
    yield watch, warnings
    watch.close()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize(
    ("age_s", "spent_s", "kind", "words"),
    [
        (0.5, 0.4, "", ""),
        (3.7, 3.5, "slow_encoder", "of which the encoder took 3.5 s"),
        (3.7, 0.1, "clock", "set the camera's clock"),
        (9 * 86_400.0, 3.5, "clock", "9.0 days old when it arrived: set the camera's clock"),
        (-60.0, 3.5, "clock", "in the future: set the camera's clock"),
    ],
)
def test_what_makes_an_image_late_is_counted_and_told_by_its_cause(
    watched: tuple[TimeWatch, ThrottledWarnings],
    age_s: float,
    spent_s: float,
    kind: str,
    words: str,
) -> None:
    watch, warnings = watched
    stamp_ns = time.time_ns() - round(age_s * SECOND)
    watch.check_clock(stamp_ns, "/embedding", time.monotonic(), spent_s)
    assert warnings.counts() == ({kind: 1} if kind else {})
    assert words in warnings.recent(within_s=60.0)
