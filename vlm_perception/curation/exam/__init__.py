# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Examines the rules of the curation; no stage uses it."""
