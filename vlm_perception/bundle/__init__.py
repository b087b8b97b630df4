# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A model bundle: its files, its manifest and its stored outputs."""
