# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is written for users: results take their places when whole, all else is spared."""
