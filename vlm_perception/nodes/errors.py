# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a node from starting at all."""

from __future__ import annotations


class StartError(ValueError):
    """The process cannot do what it was started for; the text says why and what to do."""
