# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes use nothing of rclpy that Humble, Jazzy and Kilted do not all have."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlm_perception.nodes

NODES = Path(vlm_perception.nodes.__file__).parent
ABSENT_FROM_SOME = [
    "rclpy.event_handler",
    "rclpy.qos_event",
    "add_post_set_parameters_callback",
    "add_pre_set_parameters_callback",
    "ParameterEventHandler",
    "BEST_AVAILABLE",
    "autostart=",
    "with rclpy.init",
    "EventsExecutor",
    "rclpy.experimental",
]


@pytest.mark.parametrize("name", ABSENT_FROM_SOME)
def test_names_that_some_distribution_lacks(name: str) -> None:
    users = {file.name for file in NODES.rglob("*.py") if name in file.read_text(encoding="utf-8")}
    # The one file that tries both names of the events.
    assert users <= ({"qos.py"} if name.startswith("rclpy.") else set())
