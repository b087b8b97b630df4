# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Break the running graph on purpose, and measure how soon it reports the fault and recovers."""
