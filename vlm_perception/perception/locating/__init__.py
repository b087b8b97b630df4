# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where a phrase is in an image: boxes from patches, or as a language model writes them."""
