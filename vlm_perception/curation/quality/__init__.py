# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""03_quality_checked: how well captions fit their images, and how sure that must be."""
