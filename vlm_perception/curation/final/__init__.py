# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""04_final: the set as it is trained on and evaluated with: splits, shards and indexes."""
