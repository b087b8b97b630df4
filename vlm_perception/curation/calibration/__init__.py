# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`curate calibrate`: thresholds from the error rates that a recipe asks for."""
