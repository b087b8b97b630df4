# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for pycuda where there is no GPU; see driver.py."""
