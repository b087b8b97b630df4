# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model reads of a frame: taken apart, kept a while, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.details import (
    FRAMES,
    DetailError,
    RecentDetails,
    detail_of,
    key_of,
    lacks_detail,
    with_detail,
    without_detail,
)
from vlm_perception.types import FUSED_TOKEN, Embedding, FrameDetail


def frame(sequence: int = 0, run_id: str = "run", tokens: int = 3) -> Embedding:
    return Embedding(
        stamp_ns=0,
        frame_id="camera",
        sequence=sequence,
        run_id=run_id,
        bundle_digest="d" * 64,
        image_size=(64, 36),
        grid_size=(16, 9),
        pooled=np.ones(4, np.float32) / 2,
        tokens=np.full((tokens, 8), sequence, np.float16),
        token_index=np.array([*range(tokens - 1), FUSED_TOKEN], np.uint16),
        tags=(),
        regions=(),
        vocabulary_version=1,
    )


def test_a_frame_is_whole_again_with_its_detail() -> None:
    whole = frame(7)
    sent = without_detail(whole)
    assert lacks_detail(sent) and not lacks_detail(whole)
    assert (sent.tokens.nbytes, len(sent.token_index)) == (0, 0)
    again = with_detail(sent, detail_of(whole))
    assert again.tokens is whole.tokens and again.token_index is whole.token_index
    assert replace(again, tokens=sent.tokens, token_index=sent.token_index) == sent


@pytest.mark.parametrize(
    ("detail", "sentence"),
    [
        (detail_of(frame(8)), "to frame 8 of run run"),
        (detail_of(frame(7, "another")), "of run another"),
        (replace(detail_of(frame(7)), bundle_digest="e" * 64), "bundle eeeeeeeeeeee"),
        (replace(detail_of(frame(7)), names=("view", "tiles")), "lacks token_index and tokens"),
        (detail_of(replace(frame(7), tokens=np.zeros((3, 8)))), "tokens of the detail is float64"),
        (detail_of(replace(frame(7), token_index=np.zeros((3, 1), "u2"))), "1-dimensional uint16"),
        (detail_of(replace(frame(7), token_index=np.zeros(2, "u2"))), "3 tokens and 2 token ind"),
        (detail_of(without_detail(frame(7))), "0 tokens"),
    ],
)
def test_what_is_not_the_frames_detail_is_refused(detail: FrameDetail, sentence: str) -> None:
    with pytest.raises(DetailError, match=sentence):
        with_detail(without_detail(frame(7)), detail)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 2000))
def test_of_the_newest_frames_are_kept_as_many_as_fit(sizes: Sequence[int], most: int) -> None:
    recent = RecentDetails(most)
    details = [detail_of(frame(index, tokens=tokens)) for index, tokens in enumerate(sizes)]
    for detail in details:
        recent.put(detail)
        assert recent.get(key_of(detail)) is detail, "the newest is always kept"
    held = [recent.get(key_of(detail)) is not None for detail in details]
    kept = details[held.index(True) :] if details else []
    assert held == [False] * (len(details) - len(kept)) + [True] * len(kept)
    assert len(kept) <= FRAMES
    bytes_of = [sum(each.nbytes for each in detail.tensors) for detail in details]
    if len(kept) > 1:
        assert sum(bytes_of[-len(kept) :]) <= most
    if len(kept) < min(FRAMES, len(details)):
        assert sum(bytes_of[-len(kept) - 1 :]) > most, "one more would have fitted"
    assert recent.get(("another run", 0)) is None
