# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the students that ship as bundles; needs torch."""
