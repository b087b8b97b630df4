# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets for training and evaluation."""
