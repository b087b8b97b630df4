# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is calibrated from a stage that is not there yet."""

from __future__ import annotations

from vlm_perception.curation.recipe import CurationError


class TooEarlyError(CurationError):
    """A stage is missing; the text says which, and what to do."""
