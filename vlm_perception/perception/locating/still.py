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
from vlm_perception.common.errors import VlmPerceptionError
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
from vlm_perception.perception.preprocess import check_image
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, LocatedBox

PATIENCE_S = 120.0
"""The most that a server may take for a phrase: nothing waits for it but who has asked."""


def locate_all(
    bundle: ModelBundle,
    image: NDArray[np.uint8],
    phrases: Sequence[str],
    method: str,
    served: ServedSettings | None = None,
) -> dict[str, tuple[LocatedBox, ...] | VlmPerceptionError]:
    """Locate phrases in one image.

    Args:
        bundle: the model.
        image: uint8 RGB [height, width, 3].
        phrases: what to look for.
        method: one of `locator.METHODS`.
        served: of a model that a server runs, which is asked by the method `model` in place of the
            bundle's.

    Returns:
        By phrase: boxes in pixels of the image, the best first, or why they could not be had.

    Raises:
        LocateError: a phrase cannot be used, or the bundle cannot do the method.
        BundleError: a file is missing or altered.
        FrameError: the image is none.
        ServedError: the server cannot be asked.
    """
    labels = bundle.manifest.vocabulary.names
    texts = [parse_phrase(phrase, labels).text for phrase in phrases]
    with _loaded(method, bundle, served) as places:
        if isinstance(places, PatchMethod):
            places.prepare(texts)
        if served is None:
            embedding = VisionEncoder(bundle, temporal=False).encode(Frame(image, 0), 0)
        else:
            embedding = _with_image_alone(bundle, image)
        places.look(embedding)
        return {text: _found(places, text) for text in texts}


def _found(places: Method, text: str) -> tuple[LocatedBox, ...] | VlmPerceptionError:
    try:
        return places.find(text)
    except VlmPerceptionError as error:
        # What else was asked may have an answer.
        return error


def _with_image_alone(bundle: ModelBundle, image: NDArray[np.uint8]) -> Embedding:
    """All that a server is sent of a frame."""
    check_image(image)
    height, width = image.shape[:2]
    spec = bundle.manifest.image
    return Embedding(
        stamp_ns=0,
        frame_id="",
        sequence=0,
        run_id="",
        bundle_digest=bundle.digest,
        image_size=(width, height),
        grid_size=(spec.columns, spec.rows),
        pooled=np.zeros(0, np.float32),
        tokens=np.zeros((0, 0), np.float16),
        token_index=np.zeros(0, np.uint16),
        tags=(),
        regions=(),
        vocabulary_version=0,
        image=image,
    )


@contextmanager
def _loaded(method: str, bundle: ModelBundle, served: ServedSettings | None) -> Iterator[Method]:
    if served is None:
        yield method_named(method, bundle)
        return
    boxes = format_of_served(served)
    link = Connection(served.checked_endpoint())
    with closing(ServedModel(link, replace(served, served_deadline=PATIENCE_S))) as model:
        yield ModelMethod(model, boxes)
