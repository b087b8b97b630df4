# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Looking at a graph or a bag in rerun, an optional viewer."""
