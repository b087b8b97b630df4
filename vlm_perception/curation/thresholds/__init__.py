# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds as a recipe names them, or as they were calibrated for a set."""
