# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model reads of a frame: taken apart, kept a while, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import ImageSpec, Manifest, ProcessorSpec, TowerSpec
from vlm_perception.bundle.memory import KEPT_FRAMES
from vlm_perception.perception.details import (
    LEAST_FRAMES,
    NO_TOKENS,
    DetailError,
    Details,
    Kind,
    RecentFrames,
    key_of,
    without_detail,
)
from vlm_perception.types import FUSED_TOKEN, Embedding

MANIFEST = ModelBundle.load("roadworld-nano").manifest
SHARED = Details(MANIFEST)


def with_tower(manifest: Manifest) -> Manifest:
    """The same with a tower that looks at 8x4 pixels."""
    image = ImageSpec(
        width=8,
        height=4,
        patch=2,
        columns=4,
        rows=2,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pad=(0, 0, 0),
        processor=ProcessorSpec(resample="bicubic", resize=(8, 4), crop=None),
    )
    tower = TowerSpec(family="siglip", image=image, tokens=8, token_width=4)
    language = manifest.language
    assert language is not None
    return manifest.model_copy(update={"language": language.model_copy(update={"tower": tower})})


OWN = Details(with_tower(MANIFEST))
SENT = Details(MANIFEST, Kind.IMAGE)


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


def photo(height: int = 36, width: int = 64) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def looked_at(sequence: int = 0, **changes: Any) -> Embedding:
    """As the encoder gives it where the language model has a tower of its own."""
    bare = replace(frame(sequence), tokens=NO_TOKENS, token_index=np.zeros(0, np.uint16))
    return replace(bare, **{"image": photo(), **changes})


def test_a_frame_is_whole_again_with_its_detail() -> None:
    whole = frame(7)
    sent = without_detail(whole)
    assert SHARED.missing(sent) and not SHARED.missing(whole)
    assert (sent.tokens.nbytes, len(sent.token_index)) == (0, 0)
    again = SHARED.put_back(sent, SHARED.of(whole))
    assert again.tokens is whole.tokens and again.token_index is whole.token_index
    assert replace(again, tokens=sent.tokens, token_index=sent.token_index) == sent


def test_a_tower_of_its_own_gets_views_of_the_image_instead() -> None:
    whole = looked_at(7)
    sent = without_detail(whole)
    assert OWN.missing(sent) and OWN.missing(frame(7)) and not OWN.missing(whole)
    assert sent.image is None
    detail = OWN.of(whole)
    assert detail.names == ("views",)
    again = OWN.put_back(sent, detail)
    assert again.views is detail.tensors[0] and again.views.shape == (1, 4, 8, 3)
    assert OWN.of(again).tensors[0] is again.views, "nothing is made of an image twice"
    of_bgr = OWN.of(replace(whole, image=np.ascontiguousarray(photo()[..., ::-1])[..., ::-1]))
    np.testing.assert_array_equal(of_bgr.tensors[0], detail.tensors[0])
    with pytest.raises(DetailError, match="not at hand"):
        OWN.of(sent)


@pytest.mark.parametrize(("size", "sent"), [((36, 64), (36, 64)), ((3000, 1000), (1536, 512))])
def test_a_server_gets_the_image_itself_undistorted(
    size: tuple[int, int], sent: tuple[int, int]
) -> None:
    whole = replace(frame(7), image=photo(*size))
    bare = without_detail(whole)
    assert SENT.missing(bare) and not SENT.missing(whole)
    again = SENT.put_back(bare, SENT.of(whole))
    assert again.image is not None and again.image.shape == (*sent, 3)
    with pytest.raises(DetailError, match="not at hand"):
        SENT.ready(bare)


def test_nothing_that_nobody_reads_is_kept() -> None:
    whole = replace(frame(7), image=photo())
    assert SHARED.only(whole).image is None
    assert not len(SENT.only(whole).tokens) and not len(SENT.only(whole).token_index)
    for details in (SHARED, SENT):
        detail, of_kept = details.of(whole), details.of(details.only(whole))
        assert all(map(np.array_equal, detail.tensors, of_kept.tensors))


MINE, SEEN = SHARED.of(frame(7)), OWN.of(looked_at(7))
PHOTO = SENT.of(replace(frame(7), image=photo()))


@pytest.mark.parametrize(
    ("details", "detail", "sentence"),
    [
        (SHARED, SHARED.of(frame(8)), "to frame 8 of run run"),
        (SHARED, SHARED.of(frame(7, "another")), "of run another"),
        (SHARED, replace(MINE, bundle_digest="e" * 64), "bundle eeeeeeeeeeee"),
        (SHARED, replace(MINE, names=("view", "tiles")), "lacks token_index and tokens"),
        (
            SHARED,
            SHARED.of(replace(frame(7), tokens=np.zeros((3, 8)))),
            "tokens of the detail is float64",
        ),
        (
            SHARED,
            SHARED.of(replace(frame(7), token_index=np.zeros((3, 1), "u2"))),
            "1-dimensional uint16",
        ),
        (
            SHARED,
            SHARED.of(replace(frame(7), token_index=np.zeros(2, "u2"))),
            "3 tokens and 2 token ind",
        ),
        (SHARED, SHARED.of(without_detail(frame(7))), "0 tokens"),
        (OWN, MINE, "lacks views"),
        (
            OWN,
            replace(SEEN, tensors=(np.zeros((1, 8, 8, 3), "u1"),)),
            r"uint8 of shape \(1, 8, 8, 3\)",
        ),
        (OWN, replace(SEEN, tensors=(np.zeros((1, 4, 8, 3), "f4"),)), "float32 of shape"),
        (SENT, MINE, "lacks image"),
        (SENT, replace(PHOTO, tensors=(np.zeros((4, 8, 3), "f4"),)), "3-dimensional uint8"),
        (SENT, replace(PHOTO, tensors=(np.zeros((4, 8, 4), "u1"),)), r"shape \[4, 8, 4\]"),
        (SENT, replace(PHOTO, tensors=(np.zeros((0, 8, 3), "u1"),)), r"shape \[0, 8, 3\]"),
    ],
)
def test_what_is_not_the_frames_detail_is_refused(
    details: Details, detail: Any, sentence: str
) -> None:
    with pytest.raises(DetailError, match=sentence):
        details.put_back(without_detail(frame(7)), detail)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 2000), st.booleans())
def test_of_the_newest_frames_are_kept_as_many_as_fit(
    sizes: Sequence[int], most: int, own: bool
) -> None:
    """By the bytes of the patch tokens, or of the image."""
    recent = RecentFrames(most)
    frames = [
        looked_at(index, image=photo(1, size)) if own else frame(index, tokens=size)
        for index, size in enumerate(sizes)
    ]
    for each in frames:
        recent.put(each)
        assert recent.get(key_of(each)) is each, "the newest is always kept"
    held = [recent.get(key_of(each)) is not None for each in frames]
    kept = frames[held.index(True) :] if frames else []
    assert held == [False] * (len(frames) - len(kept)) + [True] * len(kept)
    assert min(LEAST_FRAMES, len(frames)) <= len(kept) <= KEPT_FRAMES
    bytes_of = [
        each.tokens.nbytes + (0 if each.image is None else each.image.nbytes) for each in frames
    ]
    if len(kept) > LEAST_FRAMES:
        assert sum(bytes_of[-len(kept) :]) <= most
    if len(kept) < min(KEPT_FRAMES, len(frames)):
        assert sum(bytes_of[-len(kept) - 1 :]) > most, "one more would have fitted"
    assert recent.get(("another run", 0)) is None
