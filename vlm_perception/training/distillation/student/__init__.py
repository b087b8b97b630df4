# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The dual encoder that learns: what it begins as, what it gives, and its training."""
