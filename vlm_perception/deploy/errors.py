# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The one error of this package, so that a command can turn it into a sentence."""


class ExportError(ValueError):
    """A checkpoint cannot become a bundle; the message says why and what to do."""
