# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Compares two replays, or a replay with a robot's bag."""
