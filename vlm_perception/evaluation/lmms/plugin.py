# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval finds by the entry point `lmms_eval.models`; it asks this of each of its runs."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MODEL = "vlm_perception"


def manifest() -> ModelManifest:
    """Names the class of bundles, which is imported only when one is asked for."""
    return ModelManifest(model_id=MODEL, chat_class_path=f"{__package__}.model.BundleModel")
