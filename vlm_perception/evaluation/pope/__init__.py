# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Object hallucination, by polling: POPE's questions, answers and figures."""
