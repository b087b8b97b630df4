# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How fast a set is made, and how the search for near-duplicates grows."""
