# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The package's messages: one table for each, which rclpy and rosbags share."""
