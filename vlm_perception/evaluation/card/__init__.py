# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report card of a bundle: every evaluation that its data allow, on one page."""
