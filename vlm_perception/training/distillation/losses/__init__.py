# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The losses that a student can learn by."""
