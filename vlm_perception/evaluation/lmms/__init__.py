# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Standard sets through lmms-eval: a bundle is one of its models."""
