# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Live, typed, queryable scene descriptions from a robot's camera stream."""

import os
from pkgutil import extend_path

# Started from the repository's root, Python finds these sources before the installed package; the
# generated messages are only in the latter.
__path__ = extend_path(__path__, __name__)

# ONNX Runtime reports to its makers over the network unless this is set before its first import
# (onnxruntime/Privacy.md). A robot reports to nobody, unless its owner has decided otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
