# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as files: a bag, a clip, images with answers, shards for training, one page."""
