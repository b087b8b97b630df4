# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a recording from being replayed."""

from __future__ import annotations

from vlm_perception.common.errors import VlmPerceptionError


class ReplayError(VlmPerceptionError):
    """A recording, a log or an option cannot be used; the text says why and what to do."""
