# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bags in, the same scenes out, and reports on them; needs no ROS installation."""
