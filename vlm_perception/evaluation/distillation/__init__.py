# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what a small model has kept of a big one, and whether the big one was worth it."""
