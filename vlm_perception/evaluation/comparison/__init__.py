# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which differences between two models are real: statistics of records, without any model."""
