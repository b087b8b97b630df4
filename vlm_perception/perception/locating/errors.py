# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong when a phrase is looked for."""

from __future__ import annotations

from vlm_perception.common.errors import VlmPerceptionError


class LocateError(VlmPerceptionError):
    """A phrase cannot be located; the message says why."""
