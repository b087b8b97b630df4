# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Examinations and measurements; each prints a table and can come out worse."""
