# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""01_filtered: what is judged by the image alone, and near-duplicates."""
