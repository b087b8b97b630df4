# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that are meant for people: the user of the program can fix the cause.

All others are faults of the program and keep their trace.
"""

from __future__ import annotations


class VlmPerceptionError(Exception):
    """What was given cannot be used; the text says why and what to do, in one sentence."""


class RunError(VlmPerceptionError):
    """What was given is well, and the work on it failed all the same, as when a process ended."""
