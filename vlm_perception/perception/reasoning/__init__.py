# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Decides what to analyse, and keeps what was answered."""
