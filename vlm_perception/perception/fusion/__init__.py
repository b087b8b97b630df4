# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Joins the fast and the slow path into one scene."""
