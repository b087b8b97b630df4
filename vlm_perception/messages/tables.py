# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The package's messages and the objects that they hold, field by field."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sized
from typing import Any, TypeVar

import numpy as np

from vlm_perception import types
from vlm_perception.bundle.manifest import MOST_LABELS, MOST_QUESTIONS
from vlm_perception.messages import codec
from vlm_perception.messages.codec import Library, MessageError, Part, Row, Table
from vlm_perception.messages.tensor import tensor, tensor_array, tensor_message
from vlm_perception.perception.locating.tracking import MOST_FOLLOWED
from vlm_perception.perception.vision.regions import MOST_REGIONS_PER_LABEL

LONGEST_CAPTION = 10_000
MOST_REGIONS = MOST_LABELS * MOST_REGIONS_PER_LABEL
MOST_LOCATED = 2 * MOST_FOLLOWED
"""Those that are followed, and as many that were just lost."""
T = TypeVar("T", bound=Sized)


def _status(value: int) -> types.Status:
    try:
        return types.Status(value)
    except ValueError as error:
        raise MessageError(f"its status {value} is not one of STATUS_*") from error


def _few(what: str, values: T, most: int) -> T:
    """The values, of which what comes in goes out with each scene, and is drawn."""
    if len(values) > most:
        raise MessageError(f"it has {len(values)} {what}; at most {most} are accepted")
    return values


def _many(
    write: Callable[[Any, Library], Any], read: Callable[[Any], Any], what: str, most: int
) -> Row:
    """A list of messages, which is a tuple of objects."""
    return Row(
        lambda values, library: [write(value, library) for value in values],
        lambda messages: tuple([read(message) for message in _few(what, messages, most)]),
    )


def _tag_message(tag: types.Tag, library: Library) -> Any:
    index, score = int(tag.label_index), float(tag.score)
    return library["vlm_perception/msg/Tag"](label_index=index, label=tag.label, score=score)


def _tag(message: Any) -> types.Tag:
    return types.Tag(message.label_index, message.label, message.score)


def _region_message(region: types.Region, library: Library) -> Any:
    box = library["sensor_msgs/msg/RegionOfInterest"](
        x_offset=int(region.x),
        y_offset=int(region.y),
        height=int(region.height),
        width=int(region.width),
        do_rectify=False,
    )
    index, score = int(region.label_index), float(region.score)
    kind = library["vlm_perception/msg/Region"]
    return kind(label_index=index, label=region.label, score=score, roi=box)


def _region(message: Any) -> types.Region:
    box = message.roi
    place = (box.x_offset, box.y_offset, box.width, box.height)
    return types.Region(message.label_index, message.label, message.score, *place)


def _attribute_message(attribute: types.Attribute, library: Library) -> Any:
    return library["vlm_perception/msg/Attribute"](
        name=attribute.name,
        value=attribute.value,
        choices=list(attribute.choices),
        probabilities=library.sequence(array("f", attribute.probabilities)),
    )


def _attribute(message: Any) -> types.Attribute:
    choices, probabilities = tuple(message.choices), tuple(message.probabilities.tolist())
    if probabilities and len(choices) != len(probabilities):
        raise MessageError(
            f"attribute {message.name!r} has {len(choices)} choices, {len(probabilities)} "
            "probabilities"
        )
    return types.Attribute(message.name, message.value, choices, probabilities)


def _embedding(**values: Any) -> types.Embedding:
    tokens, indices = len(values["tokens"]), len(values["token_index"])
    if tokens != indices:
        raise MessageError(f"it has {tokens} tokens and {indices} token indices")
    if not np.isfinite(values["pooled"]).all():
        raise MessageError("pooled contains NaN or infinity")
    if not all(values["image_size"]):
        raise MessageError("its image has no size")
    return types.Embedding(**values)


def _detail(**values: Any) -> types.FrameDetail:
    names, tensors = values["names"], values["tensors"]
    if len(names) != len(tensors) or len(set(names)) != len(names):
        raise MessageError(f"it has {len(tensors)} tensors under the names {', '.join(names)}")
    return types.FrameDetail(**values)


def _followed(value: int) -> types.Followed:
    try:
        return types.Followed(value)
    except ValueError as error:
        raise MessageError(f"an object's state {value} is not one of STATE_*") from error


def located_message(located: types.LocatedObject, library: Library) -> Any:
    """A LocatedObject, which answers of ~/locate hold, too."""
    box = located.box
    return library["vlm_perception/msg/LocatedObject"](
        id=int(located.id),
        phrase=located.phrase,
        x=float(box.x),
        y=float(box.y),
        width=float(box.width),
        height=float(box.height),
        score=float(box.score),
        state=int(located.state),
    )


def _located(message: Any) -> types.LocatedObject:
    box = types.LocatedBox(message.x, message.y, message.width, message.height, message.score)
    if not (
        np.isfinite([box.x, box.y, box.width, box.height]).all() and box.width > 0 < box.height
    ):
        raise MessageError(f"the box of {message.phrase[:40]!r} is none")
    return types.LocatedObject(message.id, message.phrase, box, _followed(message.state))


EMBEDDING_INFO = "vlm_perception/msg/EmbeddingInfo"
KEYFRAME = Row(codec.time_message, codec.stamp_ns, "keyframe_stamp_ns")
TEXTS = Row(lambda texts, library: list(texts), tuple)
STAGES = Row(
    lambda stages, library: [
        library["vlm_perception/msg/StageTime"](name=name, duration=float(seconds))
        for name, seconds in stages.items()
    ],
    lambda stages: {stage.name: stage.duration for stage in stages},
)
TAGS = _many(_tag_message, _tag, "tags", MOST_LABELS)
REGIONS = _many(_region_message, _region, "regions", MOST_REGIONS)
ATTRIBUTES = _many(_attribute_message, _attribute, "attributes", MOST_QUESTIONS)
EMBEDDING = Table(
    "vlm_perception/msg/VisionEmbedding",
    _embedding,
    run_id=str,
    sequence=int,
    bundle_digest=str,
    image_width=Part("image_size"),
    image_height=Part("image_size"),
    grid_width=Part("grid_size"),
    grid_height=Part("grid_size"),
    pooled=tensor("pooled", np.float32, 1),
    tokens=tensor("tokens", np.float16, 2),
    token_index=Row(
        lambda places, library: library.sequence(array("H", places.tobytes())),
        lambda places: np.array(places, np.uint16),
    ),
    tags=TAGS,
    regions=REGIONS,
    vocabulary_version=int,
    stages=STAGES,
)
DETAIL = Table(
    "vlm_perception/msg/FrameDetail",
    _detail,
    run_id=str,
    sequence=int,
    bundle_digest=str,
    names=TEXTS,
    tensors=Row(
        lambda tensors, library: [tensor_message(values, library) for values in tensors],
        lambda messages: tuple([tensor_array(each, "a tensor") for each in messages]),
    ),
)
LOCATIONS = Table(
    "vlm_perception/msg/LocatedObjects",
    types.LocatedObjects,
    run_id=str,
    bundle_digest=str,
    image_width=Part("image_size"),
    image_height=Part("image_size"),
    objects=_many(located_message, _located, "objects", MOST_LOCATED),
)
CAPTION = Row(
    lambda text, library: str(text),
    lambda text: _few("characters in its caption", text, LONGEST_CAPTION),
)
REASONING = Table(
    "vlm_perception/msg/SceneReasoning",
    types.Reasoning,
    run_id=str,
    bundle_digest=str,
    keyframe_stamp=KEYFRAME,
    is_keyframe=bool,
    trigger=lambda trigger: types.Trigger(trigger).value,
    drift=float,
    caption=CAPTION,
    attributes=ATTRIBUTES,
    instruction=str,
    instruction_version=int,
    vocabulary_version=int,
    rung=int,
    stages=STAGES,
)
SCENE = Table(
    "vlm_perception/msg/SemanticScene",
    types.Scene,
    run_id=str,
    sequence=int,
    bundle_digest=str,
    image_width=Part("image_size"),
    image_height=Part("image_size"),
    vocabulary_version=int,
    instruction_version=int,
    tags=TAGS,
    regions=REGIONS,
    attributes=ATTRIBUTES,
    hazards=TEXTS,
    conflicts=TEXTS,
    caption=CAPTION,
    keyframe_stamp=KEYFRAME,
    embedding_age=float,
    reasoning_age=float,
    keyframe_age=float,
    latency=STAGES,
    rung=int,
    status=Row(lambda status, library: int(status), _status),
    reason=str,
)
