# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what an image costs: time, memory, energy."""
