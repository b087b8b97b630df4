# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of checkpoints, as they are stored."""
