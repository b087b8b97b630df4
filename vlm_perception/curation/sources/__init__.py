# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the sources hold, and 00_raw, which takes it in."""
