# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the package's messages were before they were published, for recordings of that time.

Published messages do not change: recordings and other machines hold them without the names of
their fields.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Earlier(NamedTuple):
    """An earlier version of a message."""

    definition: str
    missing: dict[str, Any]
    """The fields that it lacks, with their values for "unknown"."""


EARLIER = {
    "vlm_perception/msg/SceneReasoning": (
        Earlier(
            """\
std_msgs/Header header
string run_id
uint64 sequence
string bundle_digest
builtin_interfaces/Time keyframe_stamp
bool is_keyframe
string trigger
float32 drift
string caption
Attribute[] attributes
string instruction
uint32 instruction_version
uint8 rung
StageTime[] stages
float32 processing_time
""",
            {"vocabulary_version": 0},
        ),
    ),
}
"""By type; the versions that are not here are those of msg/."""
