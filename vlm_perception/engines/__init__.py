# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Engines: each runs one graph on one kind of device."""
