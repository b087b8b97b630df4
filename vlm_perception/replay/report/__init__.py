# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a replay leaves to look at: log, summary, timeline, video."""
