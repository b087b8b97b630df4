# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of made-up messages on the topics that the nodes read: none may end or fill a node."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from vlm_perception.evaluation.chaos.testbed.finding import (
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    counts,
    within,
)
from vlm_perception.evaluation.chaos.testbed.participant import Seen, wait
from vlm_perception.evaluation.chaos.testbed.stage import NODES, Stage
from vlm_perception.rosgraph.process_usage import usage_of
from vlm_perception.types import Status

PER_SECOND = 200.0
ANSWER_WITHIN_S = 1.0
GROWTH_PERCENT = 5.0
WARM_UP_SHARE = 0.1
"""So many of the messages come before memory is first read: buffers have their size by then."""
DISCOVERY_S = 2.0
"""Until the nodes get what is sent: time counts from then. A publisher knows of its readers sooner
than they know of it."""
SEED = 5

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Target:
    """A topic and what to send on it."""

    topic: str
    message_type: type
    messages: Strategy
    reliable: bool


def fuzz(stage: Stage, messages: int) -> Finding:
    """Send messages, half of them well formed but wild, half of them altered or arbitrary bytes.

    Hypothesis makes the contents. The camera goes on meanwhile.
    """
    from rclpy.serialization import serialize_message  # noqa: PLC0415

    from vlm_perception.nodes.io.qos import newest, results  # noqa: PLC0415

    participant = stage.participant
    pids = dict(stage.pids)
    outlets = [
        (
            target,
            participant.publisher(
                target.message_type, target.topic, results() if target.reliable else newest(1)
            ),
        )
        for target in targets()
    ]
    time.sleep(DISCOVERY_S)
    rng = random.Random(SEED)
    sent, began = 0, time.monotonic()
    rss: dict[str, float] = {}

    def send(publisher: Any, message: Any) -> None:
        nonlocal sent, rss
        data = serialize_message(message)
        publisher.publish(message if sent % 2 else _altered(data, rng))
        sent += 1
        if sent == round(WARM_UP_SHARE * messages):
            rss = _memory(pids)
        time.sleep(max(0.0, began + sent / PER_SECOND - time.monotonic()))

    since = time.monotonic()
    for target, publisher in outlets:
        _draw(target.messages, messages // len(outlets), partial(send, publisher))
    end = time.monotonic()
    for _, publisher in outlets:
        participant.remove(publisher)
    well = stage.well_again(end, 30.0)
    recovered = well.at_s - end if well else None
    after = stage.participant.between(end, well.at_s if well else float("inf"))
    alive = [node for node in NODES if _alive(pids[node])]
    answers = [participant.parameter_answer_s(node) for node in NODES]
    slowest = max((each if each is not None else float("inf")) for each in answers)
    time.sleep(3.0)
    growth = max(
        (100 * (now / rss[node] - 1) for node, now in _memory(pids).items() if node in rss),
        default=0.0,
    )
    warnings = sum(_bad_messages(stage, node) for node in NODES)
    scenes = len(participant.between(since, end))
    diagnosed = stage.diagnosed(since)
    return Finding(
        f"{sent} fuzzed messages",
        f"{len(alive)} of {len(NODES)} nodes alive, {warnings} warnings, memory grew by "
        f"{growth:.1f} % at most, parameters answered in {1e3 * slowest:.0f} ms; "
        f"{scenes / (end - since):.0f} scenes per second meanwhile; {_until_well(after)}",
        None,
        recovered,
        0,
        len(alive) == len(NODES)
        and slowest <= ANSWER_WITHIN_S
        and growth <= GROWTH_PERCENT
        and within(recovered, RECOVERED_WITHIN_S)
        and within(diagnosed, NOTICED_WITHIN_S),
        diagnosed,
    )


def targets() -> list[Target]:
    """The topics that the nodes read."""
    from sensor_msgs.msg import CompressedImage, Image  # noqa: PLC0415

    from vlm_perception.msg import (  # noqa: PLC0415
        FrameDetail,
        FrameRequest,
        LocatedObjects,
        SceneReasoning,
        VisionEmbedding,
    )

    return [
        Target("image", Image, images(), reliable=False),
        Target("image/compressed", CompressedImage, compressed_images(), reliable=False),
        Target("embedding", VisionEmbedding, embeddings(), reliable=False),
        Target("embedding/want", FrameRequest, frames(FrameRequest), reliable=True),
        Target("embedding/detail", FrameDetail, details(), reliable=True),
        Target("embedding/want_patches", FrameRequest, frames(FrameRequest), reliable=True),
        Target("embedding/patches", FrameDetail, details(), reliable=True),
        Target("locations", LocatedObjects, locations(), reliable=True),
        Target("reasoning", SceneReasoning, reasonings(), reliable=True),
    ]


NAMED = ("tokens", "token_index", "views", "patches", "fitted", "")
"""Names of tensors in details."""
_UINT32 = st.integers(0, 2**32 - 1)
_SMALL = st.integers(0, 64)
_SIZES = st.one_of(_SMALL, _UINT32)
_BYTES = st.binary(max_size=4096).map(lambda data: array("B", data))
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_FLOATS = st.floats(width=32)
_NAMES = st.one_of(_TEXT, st.sampled_from(["traffic_light", "construction", "weather"]))
_ENCODINGS = st.one_of(
    st.sampled_from(["rgb8", "bgr8", "rgba8", "mono8", "mono16", "yuv422", "bayer_rggb8", "rgb16"]),
    _TEXT,
)


@st.composite
def headers(draw: st.DrawFn) -> Any:
    """Any stamp and frame."""
    from std_msgs.msg import Header  # noqa: PLC0415

    header = Header(frame_id=draw(_TEXT))
    now = time.time_ns() // 1_000_000_000
    header.stamp.sec = draw(st.one_of(st.just(now), st.integers(-(2**31), 2**31 - 1)))
    header.stamp.nanosec = draw(st.one_of(st.integers(0, 999_999_999), _UINT32))
    return header


@st.composite
def images(draw: st.DrawFn) -> Any:
    """Sizes, steps and lengths that fit together, or do not."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    width, height = draw(_SIZES), draw(_SIZES)
    fitting = width * height * 3 <= 4096 * 3
    return Image(
        header=draw(headers()),
        width=width,
        height=height,
        encoding=draw(_ENCODINGS),
        is_bigendian=draw(st.integers(0, 255)),
        step=draw(st.one_of(st.just(3 * width & 0xFFFFFFFF), _SIZES)),
        data=array("B", bytes(3 * width * height))
        if fitting and draw(st.booleans())
        else draw(_BYTES),
    )


@st.composite
def compressed_images(draw: st.DrawFn) -> Any:
    """JPEG and PNG, whole, cut or altered, and anything else."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

    suffix = draw(st.sampled_from([".jpg", ".png"]))
    whole = bytes(cv2.imencode(suffix, np.zeros((24, 32, 3), np.uint8))[1])
    cut = whole[: draw(st.integers(0, len(whole)))]
    return CompressedImage(
        header=draw(headers()),
        format=draw(
            st.one_of(st.sampled_from(["jpeg", "png", "rgb8; jpeg compressed bgr8"]), _TEXT)
        ),
        data=draw(st.one_of(st.just(array("B", whole)), st.just(array("B", cut)), _BYTES)),
    )


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Shapes, types and offsets that fit the data, or do not."""
    from vlm_perception.msg import Tensor  # noqa: PLC0415

    shape = draw(st.lists(st.one_of(_SMALL, st.integers(-(2**63), 2**63 - 1)), max_size=4))
    return Tensor(
        dtype_code=draw(st.integers(0, 255)),
        dtype_bits=draw(st.sampled_from([0, 1, 8, 16, 32, 64, 255])),
        dtype_lanes=draw(st.integers(0, 3)),
        shape=array("q", shape),
        strides=array("q", draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))),
        byte_offset=draw(st.one_of(_SMALL, st.integers(0, 2**64 - 1))),
        data=draw(_BYTES),
    )


@st.composite
def embeddings(draw: st.DrawFn) -> Any:
    """Embeddings whose parts need not fit together."""
    from vlm_perception.msg import Region, Tag, VisionEmbedding  # noqa: PLC0415

    label = {
        "label_index": draw(st.integers(0, 65535)),
        "label": draw(_TEXT),
        "score": draw(_FLOATS),
    }
    return VisionEmbedding(
        header=draw(headers()),
        run_id=draw(_TEXT),
        sequence=draw(st.integers(0, 2**64 - 1)),
        bundle_digest=draw(_TEXT),
        image_width=draw(_SIZES),
        image_height=draw(_SIZES),
        grid_width=draw(st.integers(0, 65535)),
        grid_height=draw(st.integers(0, 65535)),
        pooled=draw(tensors()),
        tokens=draw(tensors()),
        token_index=array("H", draw(st.lists(st.integers(0, 65535), max_size=8))),
        tags=[Tag(**label)] * draw(st.integers(0, 3)),
        regions=[Region(**label)] * draw(st.integers(0, 3)),
        vocabulary_version=draw(_UINT32),
        processing_time=draw(_FLOATS),
    )


@st.composite
def frames(draw: st.DrawFn, kind: Any) -> Any:
    """Messages about frames of any run, but for the rest of them."""
    return kind(run_id=draw(_TEXT), sequence=draw(st.integers(0, 2**64 - 1)))


@st.composite
def details(draw: st.DrawFn) -> Any:
    """Details whose names and tensors need not fit together."""
    from vlm_perception.msg import FrameDetail  # noqa: PLC0415

    detail = draw(frames(FrameDetail))
    detail.header, detail.bundle_digest = draw(headers()), draw(_TEXT)
    detail.names = draw(st.lists(st.sampled_from(NAMED), max_size=4))
    detail.tensors = draw(st.lists(tensors(), max_size=4))
    return detail


@st.composite
def locations(draw: st.DrawFn) -> Any:
    """Objects that need not be in the image, nor have a size or a known state."""
    from vlm_perception.msg import LocatedObject, LocatedObjects  # noqa: PLC0415

    located = LocatedObject(
        id=draw(_UINT32),
        phrase=draw(_TEXT),
        x=draw(_FLOATS),
        y=draw(_FLOATS),
        width=draw(_FLOATS),
        height=draw(_FLOATS),
        score=draw(_FLOATS),
        state=draw(st.integers(0, 255)),
    )
    return LocatedObjects(
        header=draw(headers()),
        run_id=draw(_TEXT),
        bundle_digest=draw(_TEXT),
        image_width=draw(_SIZES),
        image_height=draw(_SIZES),
        objects=[located] * draw(st.integers(0, 3)),
    )


@st.composite
def reasonings(draw: st.DrawFn) -> Any:
    """Reasonings of any bundle, with answers that need not be among the choices."""
    from vlm_perception.msg import Attribute, SceneReasoning  # noqa: PLC0415

    attribute = Attribute(
        name=draw(_NAMES),
        value=draw(_TEXT),
        choices=draw(st.lists(_TEXT, max_size=3)),
        probabilities=array("f", draw(st.lists(_FLOATS, max_size=3))),
    )
    message = SceneReasoning(
        header=draw(headers()),
        run_id=draw(_TEXT),
        sequence=draw(st.integers(0, 2**64 - 1)),
        bundle_digest=draw(_TEXT),
        is_keyframe=draw(st.booleans()),
        trigger=draw(_TEXT),
        drift=draw(_FLOATS),
        caption=draw(_TEXT),
        attributes=[attribute] * draw(st.integers(0, 3)),
        instruction=draw(_TEXT),
        rung=draw(st.integers(0, 255)),
    )
    message.keyframe_stamp = draw(headers()).stamp
    return message


def _draw(strategy: Strategy, number: int, use: Callable[[Any], None]) -> None:
    """Let Hypothesis generate this many examples, the same on each run."""

    @seed(SEED)
    @settings(
        max_examples=number,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(message: Any) -> None:
        use(message)

    each()


def _altered(data: bytes, rng: random.Random) -> bytes:
    """Flip bytes, cut, or replace everything after the CDR header."""
    kind, size = rng.randrange(3), len(data)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(4, size)] = rng.randrange(256)
        return bytes(changed)
    if kind == 1:
        return data[: rng.randint(4, size)]
    return data[:4] + rng.randbytes(rng.randint(0, 2 * size))


def _until_well(after: Sequence[Seen]) -> str:
    """What the scenes said from the end on until one was OK, and the last reason given."""
    bad = [scene for scene in after if scene.status is not Status.OK]
    return f"then {counts(after)}" + (f", at last for {bad[-1].reason!r}" if bad else "")


def _alive(pid: int) -> bool:
    try:
        # What has died, and was not waited for, has no memory.
        return usage_of(pid).rss_mb > 0.0
    except OSError:
        return False


def _memory(pids: dict[str, int]) -> dict[str, float]:
    return {node: usage_of(pid).rss_mb for node, pid in pids.items() if _alive(pid)}


def _bad_messages(stage: Stage, node: str) -> int:
    report = wait(lambda: stage.participant.newest_report(node), 2.0)
    return int(report.values.get("bad_messages", 0)) if report else 0
