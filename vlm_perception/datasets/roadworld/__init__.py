# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A procedural, seeded street in metres, with ground truth for every pixel."""
