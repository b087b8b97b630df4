# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Domain types: what a camera frame becomes on its way to a scene.

Stamps are integer nanoseconds of the source image's clock; 0 means unknown.
Durations are seconds on a monotonic clock. An age that cannot be known is negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN_AGE = -1.0
FUSED_TOKEN = 65535


@dataclass(frozen=True)
class Frame:
    """One camera image: uint8 RGB [height, width, 3]."""

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str = ""
    received_s: float = 0.0
    """Monotonic time at which the frame reached this process, in seconds."""


@dataclass(frozen=True)
class Tag:
    """A vocabulary label that holds for the whole image, with its probability."""

    label_index: int
    label: str
    score: float


@dataclass(frozen=True)
class Region:
    """A box in pixels of the source image, from connected patches that agree with a label."""

    label_index: int
    label: str
    score: float
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class LocatedBox:
    """Where a phrase was found: a box in pixels of the source image, clipped to it."""

    x: float
    y: float
    width: float
    height: float
    score: float
    """Probability; NaN where the method gives none."""


class Followed(IntEnum):
    """Whether a followed object is in an image; the values are those of LocatedObject.msg."""

    FOUND = 0
    MISSED = 1
    LOST = 2


@dataclass(frozen=True)
class LocatedObject:
    """A place where a phrase was found, in the newest image or in an earlier one."""

    id: int
    """Of a followed object, 1 or more; 0: it is not followed."""
    phrase: str
    box: LocatedBox
    """Where it was found last."""
    state: Followed = Followed.FOUND


@dataclass(frozen=True)
class LocatedObjects:
    """The followed objects in one image."""

    stamp_ns: int
    frame_id: str
    run_id: str
    bundle_digest: str
    image_size: tuple[int, int]
    """Width and height of the source image in pixels."""
    objects: tuple[LocatedObject, ...]


@dataclass(frozen=True)
class PatchEmbeddings:
    """The patches that the vision graph has kept, in the space of texts."""

    vectors: NDArray[np.float32]
    """[K, D], L2-normalised."""
    token_index: NDArray[np.uint16]
    """[K] row-major position in the grid, rising; FUSED_TOKEN for a fused token."""
    fitted: NDArray[np.uint8] | None = None
    """[height, width, 3]: the image as the vision graph sees it; None where it was not made yet."""


UNKNOWN = "unknown"
"""Value of an attribute whose likeliest choice is not likely enough, or that has no answer."""


@dataclass(frozen=True)
class Attribute:
    """The answer to a typed question: the likeliest choice and the probability of each."""

    name: str
    value: str
    choices: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Empty where the model that has answered does not say."""

    @property
    def probability(self) -> float | None:
        """Of the likeliest choice; None where it is not known."""
        return max(self.probabilities, default=None)


@dataclass(frozen=True)
class Embedding:
    """What the vision encoder knows of one frame."""

    stamp_ns: int
    frame_id: str
    sequence: int
    run_id: str
    bundle_digest: str
    image_size: tuple[int, int]
    """Width and height of the source image in pixels."""
    grid_size: tuple[int, int]
    """Columns and rows of the patch grid."""
    pooled: NDArray[np.float32]
    """[D], L2-normalised."""
    tokens: NDArray[np.float16]
    """[K, D] patch tokens as the language model reads them; [0, 0] where it reads `views` instead,
    or they were not sent along and are in the frame's detail."""
    token_index: NDArray[np.uint16]
    """[K] row-major position in the grid, rising; FUSED_TOKEN for a fused token."""
    tags: tuple[Tag, ...]
    regions: tuple[Region, ...]
    vocabulary_version: int
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each stage took."""
    image: NDArray[np.uint8] | None = None
    """The source image [height, width, 3] itself, for a language model with a vision tower of its
    own; None where it is not at hand, or nobody reads it."""
    views: NDArray[np.uint8] | None = None
    """What that tower reads, [views, height, width, 3]; None where it was not made of the image
    yet."""
    patches: PatchEmbeddings | None = None
    """What a phrase is looked for in; None where the frame came without."""


@dataclass(frozen=True)
class FrameDetail:
    """What a language model reads of one frame, which is too much to send along with each."""

    stamp_ns: int
    frame_id: str
    run_id: str
    sequence: int
    """With run_id those of the frame's embedding."""
    bundle_digest: str
    names: tuple[str, ...]
    """Which ones there are depends on what the bundle's language model reads."""
    tensors: tuple[NDArray[Any], ...]
    """As many as names."""


@dataclass(frozen=True)
class Reasoning:
    """The language reasoner's result for the frame with this stamp."""

    stamp_ns: int
    frame_id: str
    run_id: str
    bundle_digest: str
    keyframe_stamp_ns: int
    is_keyframe: bool
    trigger: str
    drift: float
    caption: str
    attributes: tuple[Attribute, ...]
    instruction: str
    instruction_version: int
    vocabulary_version: int
    rung: int
    stages: Mapping[str, float] = field(default_factory=dict)


class Status(IntEnum):
    """How far a scene may be trusted; the values are those of SemanticScene.msg."""

    OK = 0
    STALE_REASONING = 1
    NO_REASONING = 2
    NO_EMBEDDING = 3
    NO_CAMERA = 4
    DEGRADED = 5


@dataclass(frozen=True)
class Scene:
    """Both paths joined: what is known, how old it is and how far to trust it."""

    stamp_ns: int
    frame_id: str
    run_id: str
    sequence: int
    bundle_digest: str
    image_size: tuple[int, int]
    vocabulary_version: int
    instruction_version: int
    tags: tuple[Tag, ...]
    regions: tuple[Region, ...]
    attributes: tuple[Attribute, ...]
    hazards: tuple[str, ...]
    conflicts: tuple[str, ...]
    caption: str
    keyframe_stamp_ns: int
    embedding_age: float
    reasoning_age: float
    keyframe_age: float
    latency: Mapping[str, float]
    """Seconds from capture: `capture_to_embedding`, `capture_to_reasoning`, `capture_to_scene`."""
    rung: int
    status: Status
    reason: str


class Trigger(str, Enum):
    """Why a frame became a key frame, or was not made one."""

    NONE = "none"
    FIRST = "first"
    DRIFT = "drift"
    TAGS = "tags"
    AGE = "age"
    CONFLICT = "conflict"
    INSTRUCTION = "instruction"
    TIME_JUMP = "time_jump"
    FORCED = "forced"
