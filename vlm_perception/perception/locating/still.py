# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases in a single image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.locating.formats.choice import format_of_served
from vlm_perception.perception.locating.methods import (
    Method,
    ModelMethod,
    PatchMethod,
    method_named,
)
from vlm_perception.perception.locating.phrase import parse_phrase
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame, LocatedBox

PATIENCE_S = 120.0
"""The most that a server may take for a phrase: nothing waits for it but who has asked."""


def locate_all(
    bundle: ModelBundle,
    image: NDArray[np.uint8],
    phrases: Sequence[str],
    method: str,
    served: ServedSettings | None = None,
) -> dict[str, tuple[LocatedBox, ...]]:
    """Locate phrases in one image.

    Args:
        bundle: the model.
        image: uint8 RGB [height, width, 3].
        phrases: what to look for.
        method: one of `locator.METHODS`.
        served: of a model that a server runs, which is asked by the method `model` in place of the
            bundle's.

    Returns:
        Boxes in pixels of the image, the best first, by phrase.

    Raises:
        LocateError: a phrase cannot be used, or the bundle cannot do the method.
        BundleError: a file is missing or altered.
        FrameError: the image is none.
        ServedError: the server cannot be asked.
    """
    texts = [parse_phrase(phrase).text for phrase in phrases]
    with _loaded(method, bundle, served) as places:
        if isinstance(places, PatchMethod):
            places.prepare(texts)
        embedding = VisionEncoder(bundle, temporal=False).encode(Frame(image, 0), 0)
        places.look(embedding)
        return {text: places.find(text) for text in texts}


@contextmanager
def _loaded(method: str, bundle: ModelBundle, served: ServedSettings | None) -> Iterator[Method]:
    if served is None:
        yield method_named(method, bundle)
        return
    boxes = format_of_served(served)
    link = Connection(served.checked_endpoint())
    with closing(ServedModel(link, replace(served, served_deadline=PATIENCE_S))) as model:
        yield ModelMethod(model, boxes)
