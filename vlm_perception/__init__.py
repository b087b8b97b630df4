# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Live, typed, queryable scene descriptions from a robot's camera stream."""

from pkgutil import extend_path

# Started from the repository's root, Python finds these sources before the installed package; the
# generated messages are only in the latter.
__path__ = extend_path(__path__, __name__)
