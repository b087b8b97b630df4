# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the language model reads of a frame: taken from the embedding, kept a while, put back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.types import Embedding, FrameDetail

TOKENS, TOKEN_INDEX = "tokens", "token_index"
"""Names of the tensors of a detail, as `FrameDetail.msg` explains them."""
FRAMES = 8
"""So many details are kept: a quarter of a second at 30 Hz."""
MOST_BYTES = 32 << 20
"""They are fewer where these would hold more; the newest one is always kept."""

FrameKey = tuple[str, int]
"""Run and sequence number of a frame. Its stamp names no frame: it may be 0, or come again."""

NO_TOKENS = np.zeros((0, 0), np.float16)
"""Tokens of an embedding that goes without: of no width, so that a projector refuses them. It would
read none of the right width, and the language model would answer without an image."""


class DetailError(VlmPerceptionError):
    """A detail is not what the language model reads, or not of this frame."""


def key_of(frame: Embedding | FrameDetail) -> FrameKey:
    """What a frame is asked for by."""
    return frame.run_id, frame.sequence


def detail_of(embedding: Embedding) -> FrameDetail:
    """Return what the language model reads of a frame, without a copy."""
    return FrameDetail(
        stamp_ns=embedding.stamp_ns,
        frame_id=embedding.frame_id,
        run_id=embedding.run_id,
        sequence=embedding.sequence,
        bundle_digest=embedding.bundle_digest,
        names=(TOKENS, TOKEN_INDEX),
        tensors=(embedding.tokens, embedding.token_index),
    )


def without_detail(embedding: Embedding) -> Embedding:
    """Return the embedding as it is sent: without what `detail_of` returns."""
    return replace(embedding, tokens=NO_TOKENS, token_index=embedding.token_index[:0])


def lacks_detail(embedding: Embedding) -> bool:
    """Whether the language model cannot read the embedding before its detail has come."""
    return len(embedding.tokens) == 0


def with_detail(embedding: Embedding, detail: FrameDetail) -> Embedding:
    """Put a frame together again.

    Raises:
        DetailError: the detail is of another frame, or lacks what the language model reads.
    """
    if key_of(detail) != key_of(embedding) or detail.bundle_digest != embedding.bundle_digest:
        raise DetailError(
            f"the detail belongs to frame {detail.sequence} of run {detail.run_id[:8]}, bundle "
            f"{detail.bundle_digest[:12]}, not of frame {embedding.sequence} of run "
            f"{embedding.run_id[:8]}, bundle {embedding.bundle_digest[:12]}"
        )
    tensors = dict(zip(detail.names, detail.tensors, strict=True))
    missing = {TOKENS, TOKEN_INDEX} - tensors.keys()
    if missing:
        raise DetailError(
            f"the detail lacks {' and '.join(sorted(missing))}; start vision_encoder and "
            "language_reasoner of the same version"
        )
    tokens, token_index = tensors[TOKENS], tensors[TOKEN_INDEX]
    for name, values, dtype, ndim in (
        (TOKENS, tokens, np.float16, 2),
        (TOKEN_INDEX, token_index, np.uint16, 1),
    ):
        if values.dtype != dtype or values.ndim != ndim:
            raise DetailError(
                f"{name} of the detail is {values.dtype.name} of shape {values.shape}, not "
                f"{ndim}-dimensional {np.dtype(dtype).name}"
            )
    if not len(tokens) or len(tokens) != len(token_index):
        raise DetailError(
            f"the detail has {len(tokens)} tokens and {len(token_index)} token indices"
        )
    return replace(embedding, tokens=tokens, token_index=token_index)


class RecentDetails:
    """The details of the newest frames; for any thread.

    They are references to what the encoder has made anyway. A bundle whose language model reads
    images will need these here, too; until then no image is held.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Keep none yet, and never more than this many bytes, except for the newest one."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[FrameKey, FrameDetail] = OrderedDict()

    def put(self, detail: FrameDetail) -> None:
        """Keep the detail of the next frame; the oldest are dropped."""
        with self._lock:
            self._kept[key_of(detail)] = detail
            while len(self._kept) > 1 and self._too_much():
                self._kept.popitem(last=False)

    def get(self, frame: FrameKey) -> FrameDetail | None:
        """The detail of a frame; None when it is gone, or never was."""
        with self._lock:
            return self._kept.get(frame)

    def _too_much(self) -> bool:
        kept = self._kept.values()
        held = sum(values.nbytes for detail in kept for values in detail.tensors)
        return len(kept) > FRAMES or held > self._most_bytes
