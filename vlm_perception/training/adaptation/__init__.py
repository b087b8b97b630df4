# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Learns soft prompts that adapt to new classes by their names: the first stage of Self-TPT."""
