# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Draws scenes into images and markers."""
