# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""From a Hugging Face checkpoint to a bundle."""
