# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a checkpoint from becoming a bundle."""

from __future__ import annotations

from vlm_perception.common.errors import VlmPerceptionError


class ExportError(VlmPerceptionError):
    """A checkpoint cannot become a bundle; the message says why and what to do."""
