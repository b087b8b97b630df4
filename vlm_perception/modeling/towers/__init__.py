# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The towers of dual encoders: one file for each family, with all that is specific to it."""
