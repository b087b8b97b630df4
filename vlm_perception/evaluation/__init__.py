# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations and measurements; each prints a table and can fail to show an improvement."""
