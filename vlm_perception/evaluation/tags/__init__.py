# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of tags from recordings without annotations, and how good they are."""
