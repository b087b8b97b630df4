# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model learns to read a finished, frozen vision tower through a bridge."""
