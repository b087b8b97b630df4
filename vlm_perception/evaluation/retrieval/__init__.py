# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how well images and captions find each other."""
