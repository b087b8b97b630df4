# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases in a single image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.locating.methods import method_named
from vlm_perception.perception.locating.phrase import parse_phrase
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame, LocatedBox


def locate_all(
    bundle: ModelBundle, image: NDArray[np.uint8], phrases: Sequence[str], method: str
) -> dict[str, tuple[LocatedBox, ...]]:
    """Locate phrases in one image.

    Args:
        bundle: the model.
        image: uint8 RGB [height, width, 3].
        phrases: what to look for.
        method: one of `locator.METHODS`.

    Returns:
        Boxes in pixels of the image, the best first, by phrase.

    Raises:
        LocateError: a phrase cannot be used, or the bundle cannot do the method.
        BundleError: a file is missing or altered.
        FrameError: the image is none.
    """
    texts = [parse_phrase(phrase).text for phrase in phrases]
    places = method_named(method, bundle)
    embedding = VisionEncoder(bundle, temporal=False).encode(Frame(image, 0), 0)
    places.look(embedding)
    return {text: places.find(text) for text in texts}
