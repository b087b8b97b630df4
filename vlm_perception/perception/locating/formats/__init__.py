# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How families of language models are asked for boxes, and how they write them."""
