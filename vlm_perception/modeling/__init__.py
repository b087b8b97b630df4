# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The networks as torch modules, shared by export and training."""
