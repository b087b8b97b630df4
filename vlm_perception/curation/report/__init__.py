# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report on a set: figures and health of each stage, and examples of what each rule did."""
