# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How good open answers are: rated by a model on a server, or by people."""
