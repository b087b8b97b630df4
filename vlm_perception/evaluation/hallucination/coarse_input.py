# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle whose vision towers see less than they could: their input loses its detail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import LANGUAGE_VISION_GRAPH, VISION_GRAPH, ModelBundle
from vlm_perception.engines.base import Array, Engine, TensorSpec
from vlm_perception.engines.onnxruntime import ONNXRUNTIME


@dataclass
class Coarseness:
    """By how much the sides of the towers' input are shrunk; may be set between two images."""

    divisor: int = 1


@dataclass(frozen=True)
class CoarseBundle(ModelBundle):
    """A bundle that shrinks and enlarges what its vision towers take; their shapes stay.

    To shrink a camera image would change little: it has more pixels than the towers see.
    """

    coarseness: Coarseness = field(default_factory=Coarseness, kw_only=True)

    @classmethod
    def of(cls, bundle: ModelBundle) -> CoarseBundle:
        """The same files, at full resolution to begin with."""
        return cls(bundle.path, bundle.manifest, states=bundle.states)

    def engine(self, graph: str, *, threads: int = 1, engine: str = ONNXRUNTIME) -> Engine:
        """Load one graph, as any bundle does.

        Raises:
            EngineError, BundleError: as there.
        """
        loaded = super().engine(graph, threads=threads, engine=engine)
        if graph not in (VISION_GRAPH, LANGUAGE_VISION_GRAPH):
            return loaded
        return _CoarseTower(loaded, self.coarseness)


class _CoarseTower:
    """An engine with a vision tower."""

    def __init__(self, tower: Engine, coarseness: Coarseness) -> None:
        self._tower, self._coarseness = tower, coarseness

    @property
    def name(self) -> str:
        return self._tower.name

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._tower.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self._tower.outputs

    @property
    def half_precision(self) -> bool:
        return self._tower.half_precision

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        divisor = self._coarseness.divisor
        images = [coarse(image, divisor) for image in inputs["image"]]
        return self._tower.run({**inputs, "image": np.stack(images)})


def coarse(image: NDArray[np.uint8], divisor: int) -> NDArray[np.uint8]:
    """Shrink an image by averaging pixels, and enlarge it again by interpolating linearly.

    Args:
        image: RGB [height, width, 3].
        divisor: of both sides; 1 leaves it as it is.
    """
    if divisor == 1:
        return image
    height, width = image.shape[:2]
    size = max(1, width // divisor), max(1, height // divisor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.uint8)
