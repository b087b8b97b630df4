# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""From recordings and folders to a clean set of images and captions, stage by stage."""
