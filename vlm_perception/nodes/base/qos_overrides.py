# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether parameters that override a topic's quality of service have values that can be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSReliabilityPolicy

from vlm_perception.nodes.process.errors import StartError

NAME = re.compile(r"qos_overrides\.(/.+)\.(publisher|subscription)\.(\w+)")
WORDS: Mapping[str, Iterable[Any]] = {
    "durability": QoSDurabilityPolicy,
    "history": QoSHistoryPolicy,
    "reliability": QoSReliabilityPolicy,
}
"""Policies whose values are words; only `/clock` takes a durability."""
DEPTH, DEEPEST = "depth", 100_000
"""Of messages that wait, of which Fast DDS makes room for each at once."""


def check_overrides(given: Mapping[str, Any]) -> None:
    """Look at the parameters that were given before rclpy makes anything with them.

    Args:
        given: rclpy's parameters by their names.

    Raises:
        StartError: a value is none of its policy's; rclpy would end with a traceback.
    """
    for name, parameter in given.items():
        found = NAME.fullmatch(name)
        if found is None:
            continue
        policy, value = found[3], parameter.value
        if policy == DEPTH and not (type(value) is int and 1 <= value <= DEEPEST):
            raise StartError(f"{name} is {value!r}; give an integer from 1 to {DEEPEST}")
        words = words_of(policy)
        if words and not (isinstance(value, str) and value.lower() in words):
            raise StartError(f"{name} is {value!r}; choose one of: {', '.join(words)}")


def words_of(policy: str) -> list[str]:
    """The values of a policy that are words."""
    return [each.name.lower() for each in WORDS.get(policy, ()) if each.name != "UNKNOWN"]


def is_known(name: str) -> bool:
    """Whether a parameter is named as an override is: by topic, end and policy."""
    found = NAME.fullmatch(name)
    return found is not None and (found[3] == DEPTH or found[3] in WORDS)
