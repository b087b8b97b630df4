# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What evaluations on the road world share: their scenes, and what they demand of a bundle."""

from __future__ import annotations

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.world import LABELS

EXAM_SEED = 20_000_000
"""First seed of the scenes of evaluations. Training and calibration stay below 10,000,000; the
shipped student was selected on scenes from there on, so that evaluations use others."""


class ForeignBundleError(VlmPerceptionError):
    """A bundle cannot be evaluated on the road world."""


def require_road_world(bundle: ModelBundle) -> None:
    """Refuse a bundle without a language model or some of LABELS.

    Raises:
        ForeignBundleError: it is one.
    """
    known = set(bundle.manifest.vocabulary.names)
    if bundle.manifest.language is None or not set(LABELS) <= known:
        raise ForeignBundleError(
            f"bundle {bundle.manifest.name} is not a road-world bundle: this needs a language "
            f"model and the labels {', '.join(LABELS)}"
        )
