# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The base of all folders: files, errors, the machine, Ctrl-C."""
