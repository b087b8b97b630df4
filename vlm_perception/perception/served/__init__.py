# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The connection to a language model that an OpenAI-compatible server runs."""
