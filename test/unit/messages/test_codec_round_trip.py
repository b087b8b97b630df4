# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever an object holds: what rclpy publishes, rosbags reads, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.both_ways import assert_both_ways

from vlm_perception import types
from vlm_perception.types import (
    Attribute,
    Embedding,
    LocatedBox,
    LocatedObject,
    LocatedObjects,
    Reasoning,
    Region,
    Scene,
    Tag,
)

LATEST_STAMP = 2**31 * 10**9 - 1
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
REAL = st.floats(width=32, allow_nan=False)
STAMP = st.integers(0, LATEST_STAMP)
UINT8, UINT16, UINT32, UINT64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3).map(tuple)


def attribute(choices: dict[str, float]) -> st.SearchStrategy[Attribute]:
    return st.builds(
        Attribute, TEXT, TEXT, st.just(tuple(choices)), st.just(tuple(choices.values()))
    )


TAGS = some(st.builds(Tag, UINT16, TEXT, REAL))
REGIONS = some(st.builds(Region, UINT16, TEXT, REAL, UINT32, UINT32, UINT32, UINT32))
ATTRIBUTES = some(st.dictionaries(TEXT, REAL, max_size=3).flatmap(attribute))
STAGES = st.dictionaries(TEXT, REAL, max_size=3)
SIZE = st.tuples(UINT32.map(lambda side: side or 1), st.just(1))
HEAD = {"stamp_ns": STAMP, "frame_id": TEXT, "run_id": TEXT, "bundle_digest": TEXT}
TOKENS = st.integers(0, 3).flatmap(
    lambda count: st.tuples(
        arrays(np.float16, (count, 2), elements=st.floats(width=16)),
        arrays(np.uint16, count, elements=UINT16),
    )
)
EMBEDDINGS = TOKENS.flatmap(
    lambda tokens: st.builds(
        Embedding,
        **HEAD,
        sequence=UINT64,
        image_size=SIZE,
        grid_size=st.tuples(UINT16, UINT16),
        pooled=arrays(np.float32, 3, elements=REAL.filter(np.isfinite)),
        tokens=st.just(tokens[0]),
        token_index=st.just(tokens[1]),
        tags=TAGS,
        regions=REGIONS,
        vocabulary_version=UINT32,
        stages=STAGES,
    )
)
REASONINGS = st.builds(
    Reasoning,
    **HEAD,
    keyframe_stamp_ns=STAMP,
    is_keyframe=st.booleans(),
    trigger=st.sampled_from([trigger.value for trigger in types.Trigger]),
    drift=REAL,
    caption=TEXT,
    attributes=ATTRIBUTES,
    instruction=TEXT,
    instruction_version=UINT32,
    vocabulary_version=UINT32,
    rung=UINT8,
    stages=STAGES,
)
PLACE = REAL.filter(np.isfinite)
LOCATIONS = st.builds(
    LocatedObjects,
    **HEAD,
    image_size=st.tuples(UINT32, UINT32),
    objects=some(
        st.builds(
            LocatedObject,
            UINT32,
            TEXT,
            st.builds(LocatedBox, PLACE, PLACE, *[PLACE.filter(lambda side: side > 0)] * 2, REAL),
            st.sampled_from(types.Followed),
        )
    ),
)
SCENES = st.builds(
    Scene,
    **HEAD,
    sequence=UINT64,
    image_size=st.tuples(UINT32, UINT32),
    vocabulary_version=UINT32,
    instruction_version=UINT32,
    tags=TAGS,
    regions=REGIONS,
    attributes=ATTRIBUTES,
    hazards=some(TEXT),
    conflicts=some(TEXT),
    caption=TEXT,
    keyframe_stamp_ns=STAMP,
    embedding_age=REAL,
    reasoning_age=REAL,
    keyframe_age=REAL,
    latency=STAGES,
    rung=UINT8,
    status=st.sampled_from(types.Status),
    reason=TEXT,
)


@given(st.one_of(EMBEDDINGS, REASONINGS, LOCATIONS, SCENES))
@settings(deadline=None, max_examples=60)
def test_both_libraries_read_what_the_other_writes(value: Any) -> None:
    assert_both_ways(value)
