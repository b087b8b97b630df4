# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The main job on one machine: video source and three nodes, watched, recorded and drawn."""
