# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images and videos: from files, cameras and messages to RGB pixels."""
