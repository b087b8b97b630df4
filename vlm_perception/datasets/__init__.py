# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Data for training and evaluation: the procedural road world."""
