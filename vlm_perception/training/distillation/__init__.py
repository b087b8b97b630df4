# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Learning from a big model: what a recipe says, and the parts of a run."""
