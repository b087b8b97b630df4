# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model that a server runs, asked like a bundle's own."""
