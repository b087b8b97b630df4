# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Flicker, key frames and temporal attention over sequences."""
