# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""02_captioned: images without a caption in a language of the recipe get one."""
