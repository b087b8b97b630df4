# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The files of recordings, record by record, damaged ones included."""
