# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes: messages in, perception objects called, messages out."""
