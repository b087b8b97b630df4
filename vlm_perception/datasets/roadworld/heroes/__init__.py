# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Streets with one large object each: classes of several words, half of them kept from training."""
