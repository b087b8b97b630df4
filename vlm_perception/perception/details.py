# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""More of a frame than is sent with it: taken from the embedding, kept a while, put back.

What the language model reads depends on the model: the patch tokens of the encoder, views of the
image for a vision tower of its own, or the image itself where a server runs it. Phrases are looked
for in the patch embeddings.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import Manifest, TowerSpec
from vlm_perception.bundle.memory import KEPT_FRAMES, KEPT_FRAMES_BYTES
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.views import Views
from vlm_perception.types import FUSED_TOKEN, Embedding, FrameDetail, PatchEmbeddings

TOKENS, TOKEN_INDEX, VIEWS, IMAGE = "tokens", "token_index", "views", "image"
PATCHES, FITTED = "patches", "fitted"
"""Names of the tensors of a detail, as `FrameDetail.msg` explains them."""
LONGEST_SIDE = 1536
"""Pixels of the longer side of an image that is sent; a larger one is shrunk."""
LEAST_FRAMES = 3
"""So many are always kept: a request takes a frame or two to come."""


class Kind(str, Enum):
    """What of a frame is asked for; the value is its topic below that of the embeddings."""

    MODEL = "detail"
    """What the bundle's language model reads."""
    IMAGE = "image"
    """What a language model that a server runs is sent."""
    PATCHES = "patches"
    """What phrases are looked for in."""


FrameKey = tuple[str, int]
"""Run and sequence number of a frame. Its stamp names no frame: it may be 0, or come again."""

NO_TOKENS = np.zeros((0, 0), np.float16)
"""Tokens of an embedding that goes without: of no width, so that a projector refuses them. It would
read none of the right width, and the language model would answer without an image."""


class DetailError(VlmPerceptionError):
    """A detail is not what is read of a frame, or not of this one."""


def key_of(frame: Embedding | FrameDetail) -> FrameKey:
    """What a frame is asked for by."""
    return frame.run_id, frame.sequence


def own_tower(manifest: Manifest) -> TowerSpec | None:
    """The vision tower of a bundle's language model, if it has one of its own."""
    return manifest.language.tower if manifest.language is not None else None


def without_detail(embedding: Embedding) -> Embedding:
    """Return the embedding as it is sent: without what the language model reads."""
    token_index = embedding.token_index[:0]
    return replace(
        embedding,
        tokens=NO_TOKENS,
        token_index=token_index,
        image=None,
        views=None,
        patches=None,
    )


class _Tokens:
    """Patch tokens of the encoder."""

    names = (TOKENS, TOKEN_INDEX)

    def missing(self, embedding: Embedding) -> bool:
        return len(embedding.tokens) == 0

    def ready(self, embedding: Embedding) -> Embedding:
        return embedding

    def take(self, embedding: Embedding) -> tuple[NDArray[Any], ...]:
        return embedding.tokens, embedding.token_index

    def only(self, embedding: Embedding) -> Embedding:
        return replace(embedding, image=None, patches=None)

    def put(self, embedding: Embedding, tensors: Mapping[str, NDArray[Any]]) -> Embedding:
        tokens, token_index = tensors[TOKENS], tensors[TOKEN_INDEX]
        _require(TOKENS, tokens, np.float16, 2)
        _require(TOKEN_INDEX, token_index, np.uint16, 1)
        if not len(tokens) or len(tokens) != len(token_index):
            raise DetailError(
                f"the detail has {len(tokens)} tokens and {len(token_index)} token indices"
            )
        return replace(embedding, tokens=tokens, token_index=token_index)


class _Views:
    """Views of the image, for a vision tower of the language model's own."""

    names = (VIEWS,)

    def __init__(self, tower: TowerSpec) -> None:
        self._tower, self._views = tower, Views(tower)

    def missing(self, embedding: Embedding) -> bool:
        return embedding.image is None and embedding.views is None

    def ready(self, embedding: Embedding) -> Embedding:
        return replace(embedding, views=self.take(embedding)[0])

    def take(self, embedding: Embedding) -> tuple[NDArray[Any], ...]:
        if embedding.views is not None:
            return (embedding.views,)
        return (
            self._views.of(
                _image(embedding, "the language model looks at it with a tower of its own")
            ),
        )

    def only(self, embedding: Embedding) -> Embedding:
        return replace(embedding, patches=None)

    def put(self, embedding: Embedding, tensors: Mapping[str, NDArray[Any]]) -> Embedding:
        require_views(tensors[VIEWS], self._tower)
        return replace(embedding, views=tensors[VIEWS])


class _Image:
    """The image itself, for a model that a server runs."""

    names = (IMAGE,)

    def missing(self, embedding: Embedding) -> bool:
        return embedding.image is None

    def ready(self, embedding: Embedding) -> Embedding:
        _image(embedding, "the language model is sent it")
        return embedding

    def take(self, embedding: Embedding) -> tuple[NDArray[Any], ...]:
        return (shrunk(_image(embedding, "the language model is sent it"), LONGEST_SIDE),)

    def only(self, embedding: Embedding) -> Embedding:
        return replace(without_detail(embedding), image=embedding.image)

    def put(self, embedding: Embedding, tensors: Mapping[str, NDArray[Any]]) -> Embedding:
        image = tensors[IMAGE]
        _require(IMAGE, image, np.uint8, 3)
        if image.shape[2] != 3 or not image.size:
            raise DetailError(f"the image of the detail has the shape {list(image.shape)}")
        return replace(embedding, image=image)


class _Patches:
    """The patches in the space of texts, and the image that they are of, for phrases."""

    names = (PATCHES, TOKEN_INDEX, FITTED)

    def __init__(self, manifest: Manifest) -> None:
        self._image, self._width = manifest.image, manifest.vision.embedding_width
        self._preprocessor = Preprocessor(manifest.image)

    def missing(self, embedding: Embedding) -> bool:
        return embedding.patches is None

    def ready(self, embedding: Embedding) -> Embedding:
        patches = replace(_patches(embedding), fitted=self._fitted(embedding))
        return replace(embedding, patches=patches)

    def take(self, embedding: Embedding) -> tuple[NDArray[Any], ...]:
        patches = _patches(embedding)
        return patches.vectors.astype(np.float16), patches.token_index, self._fitted(embedding)

    def _fitted(self, embedding: Embedding) -> NDArray[np.uint8]:
        fitted = _patches(embedding).fitted
        if fitted is None:
            image = _image(embedding, "the outlines of things are looked for in it")
            fitted = self._preprocessor.run(image)[0][0].copy()
        return fitted

    def only(self, embedding: Embedding) -> Embedding:
        return replace(without_detail(embedding), patches=embedding.patches, image=embedding.image)

    def put(self, embedding: Embedding, tensors: Mapping[str, NDArray[Any]]) -> Embedding:
        vectors, places, fitted = (tensors[name] for name in self.names)
        _require(PATCHES, vectors, np.float16, 2)
        _require(TOKEN_INDEX, places, np.uint16, 1)
        _require(FITTED, fitted, np.uint8, 3)
        cells = self._image.rows * self._image.columns
        if (
            vectors.shape != (len(places), self._width)
            or not (places[places != FUSED_TOKEN] < cells).all()
            or fitted.shape != (self._image.height, self._image.width, 3)
        ):
            raise DetailError(
                f"the detail has {len(places)} token indices, patches of shape "
                f"{list(vectors.shape)} and an image of shape {list(fitted.shape)}, which are not "
                "this bundle's; start vision_encoder and language_reasoner with the same bundle"
            )
        if not np.isfinite(vectors).all():
            raise DetailError("the patches of the detail contain NaN or infinity")
        patches = PatchEmbeddings(vectors.astype(np.float32), places, fitted)
        return replace(embedding, patches=patches)


class Details:
    """One kind of details, of the frames of one bundle; `ready` and `of` belong to one thread."""

    def __init__(self, manifest: Manifest, kind: Kind = Kind.MODEL) -> None:
        """Prepare for one bundle.

        Args:
            manifest: of the bundle.
            kind: what is asked for.
        """
        tower = own_tower(manifest)
        self._part: _Tokens | _Views | _Image | _Patches
        if kind is Kind.IMAGE:
            self._part = _Image()
        elif kind is Kind.PATCHES:
            self._part = _Patches(manifest)
        else:
            self._part = _Tokens() if tower is None else _Views(tower)

    def missing(self, embedding: Embedding) -> bool:
        """Whether the embedding lacks what its detail brings."""
        return self._part.missing(embedding)

    def ready(self, embedding: Embedding) -> Embedding:
        """Return the embedding with what is read of it, made of its image if need be.

        Raises:
            DetailError: neither is at hand.
        """
        return self._part.ready(embedding)

    def only(self, embedding: Embedding) -> Embedding:
        """Return the embedding without what other kinds take from it, to be kept for long."""
        return self._part.only(embedding)

    def of(self, embedding: Embedding) -> FrameDetail:
        """Take from a frame what is read of it, without a copy where it is there as it is sent.

        Raises:
            DetailError: the embedding lacks it.
        """
        return FrameDetail(
            stamp_ns=embedding.stamp_ns,
            frame_id=embedding.frame_id,
            run_id=embedding.run_id,
            sequence=embedding.sequence,
            bundle_digest=embedding.bundle_digest,
            names=self._part.names,
            tensors=self._part.take(embedding),
        )

    def put_back(self, embedding: Embedding, detail: FrameDetail) -> Embedding:
        """Put a frame together again.

        Raises:
            DetailError: the detail is of another frame, or is not what the bundle's encoder gives.
        """
        if key_of(detail) != key_of(embedding) or detail.bundle_digest != embedding.bundle_digest:
            raise DetailError(
                f"the detail belongs to frame {detail.sequence} of run {detail.run_id[:8]}, bundle "
                f"{detail.bundle_digest[:12]}, not of frame {embedding.sequence} of run "
                f"{embedding.run_id[:8]}, bundle {embedding.bundle_digest[:12]}"
            )
        tensors = dict(zip(detail.names, detail.tensors, strict=True))
        if lacking := set(self._part.names) - tensors.keys():
            raise DetailError(
                f"the detail lacks {' and '.join(sorted(lacking))}; start vision_encoder and "
                "language_reasoner of the same version"
            )
        return self._part.put(embedding, tensors)


def shrunk(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Return an image whose longer side is no longer than that; never distorted, never enlarged.

    Args:
        image: uint8 [height, width, 3]; returned as it is where it is small enough.
        longest: pixels.
    """
    height, width = image.shape[:2]
    share = longest / max(height, width)
    if share >= 1.0:
        return image
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _image(embedding: Embedding, what: str) -> NDArray[np.uint8]:
    if embedding.image is None:
        raise DetailError(
            f"the image of the frame is not at hand, and {what}; play the images to a "
            "vision_encoder"
        )
    return embedding.image


def _patches(embedding: Embedding) -> PatchEmbeddings:
    if embedding.patches is None:
        raise DetailError(
            "the patch embeddings of the frame are not at hand; play the images to a vision_encoder"
        )
    return embedding.patches


def require_views(views: NDArray[Any], tower: TowerSpec) -> None:
    """Refuse views that are not those which a tower takes.

    Raises:
        DetailError: they have another type or shape.
    """
    if views.dtype != np.uint8 or views.shape != tower.view_shape:
        raise DetailError(
            f"{VIEWS} of the detail is {views.dtype.name} of shape {views.shape}, and the bundle's "
            f"language model takes uint8 of shape {tower.view_shape}; start vision_encoder and "
            "language_reasoner with the same bundle"
        )


def _require(name: str, values: NDArray[Any], dtype: type[np.generic], ndim: int) -> None:
    if values.dtype != dtype or values.ndim != ndim:
        raise DetailError(
            f"{name} of the detail is {values.dtype.name} of shape {values.shape}, not "
            f"{ndim}-dimensional {np.dtype(dtype).name}"
        )


class RecentFrames:
    """The newest embeddings with what one kind of reader takes of them; for any thread.

    Nothing is copied, but what they refer to lives longer: the image that the encoder was given,
    and what it has made of it. `bundle.memory` counts that.
    """

    def __init__(self, most_bytes: int = KEPT_FRAMES_BYTES) -> None:
        """Keep none yet, and never more than this many bytes, except for the newest ones."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[FrameKey, Embedding] = OrderedDict()

    def put(self, embedding: Embedding) -> None:
        """Keep the next frame; the oldest are dropped."""
        with self._lock:
            self._kept[key_of(embedding)] = embedding
            while len(self._kept) > LEAST_FRAMES and self._too_much():
                self._kept.popitem(last=False)

    def get(self, frame: FrameKey) -> Embedding | None:
        """The frame; None when it is gone, or never was."""
        with self._lock:
            return self._kept.get(frame)

    def _too_much(self) -> bool:
        held = sum(_held(embedding) for embedding in self._kept.values())
        return len(self._kept) > KEPT_FRAMES or held > self._most_bytes


def _held(embedding: Embedding) -> int:
    """Bytes of what the language model reads, and of what phrases are looked for in."""
    image, patches = embedding.image, embedding.patches
    return (
        embedding.tokens.nbytes
        + (image.nbytes if image is not None else 0)
        + (patches.vectors.nbytes if patches is not None else 0)
    )
