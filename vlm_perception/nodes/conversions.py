# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to the domain's objects and back.

Sequences are filled with array.array: rclpy's setters look at each element of anything else.
Numbers are cast with int() and float(): a numpy scalar is refused by the checks of rclpy.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from vlm_perception.errors import VlmPerceptionError
from vlm_perception.msg import (
    Attribute as AttributeMessage,
)
from vlm_perception.msg import (
    Region as RegionMessage,
)
from vlm_perception.msg import (
    SceneReasoning,
    SemanticScene,
    StageTime,
    Tensor,
    VisionEmbedding,
)
from vlm_perception.msg import (
    Tag as TagMessage,
)
from vlm_perception.types import (
    Attribute,
    Embedding,
    Reasoning,
    Region,
    Scene,
    Status,
    Tag,
    Trigger,
)

NS = 1_000_000_000
DTYPES: dict[tuple[int, int], str] = {
    (Tensor.DLPACK_INT, 8): "<i1",
    (Tensor.DLPACK_INT, 16): "<i2",
    (Tensor.DLPACK_INT, 32): "<i4",
    (Tensor.DLPACK_INT, 64): "<i8",
    (Tensor.DLPACK_UINT, 8): "<u1",
    (Tensor.DLPACK_UINT, 16): "<u2",
    (Tensor.DLPACK_UINT, 32): "<u4",
    (Tensor.DLPACK_UINT, 64): "<u8",
    (Tensor.DLPACK_FLOAT, 16): "<f2",
    (Tensor.DLPACK_FLOAT, 32): "<f4",
    (Tensor.DLPACK_FLOAT, 64): "<f8",
}
DTYPE_CODES: dict[str, int] = {
    "i": Tensor.DLPACK_INT,
    "u": Tensor.DLPACK_UINT,
    "f": Tensor.DLPACK_FLOAT,
}
ScalarT = TypeVar("ScalarT", bound=np.generic)


class MessageError(VlmPerceptionError):
    """A message contradicts itself; the text says how."""


def stamp_to_ns(stamp: Any) -> int:
    """Convert a stamp to nanoseconds; 0 means unknown."""
    return int(stamp.sec) * NS + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Any:
    """Convert nanoseconds to a stamp."""
    sec, nanosec = divmod(stamp_ns, NS)
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str) -> Any:
    """Build the header that goes with a source image."""
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)


def bytes_of(values: NDArray[Any]) -> array[int]:
    """Return the bytes of an array in a form that a uint8[] field takes at once."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(values).tobytes())
    return data


def tensor_message(values: NDArray[Any]) -> Any:
    """Convert an array of integers or floats to a compact Tensor."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return Tensor(
        dtype_code=DTYPE_CODES[values.dtype.kind],
        dtype_bits=values.dtype.itemsize * 8,
        dtype_lanes=1,
        shape=array("q", values.shape),
        data=bytes_of(little),
    )


def tensor_array(message: Any, name: str) -> NDArray[Any]:
    """Convert a Tensor to an array that shares its memory where it can.

    Raises:
        MessageError: The type is unknown, or shape, strides and data do not fit together.
    """
    dtype_name = DTYPES.get((message.dtype_code, message.dtype_bits))
    if dtype_name is None or message.dtype_lanes != 1:
        raise MessageError(
            f"{name} has elements of type code {message.dtype_code}, {message.dtype_bits} bits and "
            f"{message.dtype_lanes} lanes, which this version cannot read"
        )
    dtype = np.dtype(dtype_name)
    shape = tuple(message.shape)
    strides = tuple(message.strides) or _compact(shape)
    if min(shape, default=0) < 0 or len(strides) != len(shape) or min(strides, default=0) < 0:
        raise MessageError(f"{name} has shape {shape} and strides {strides}")
    if math.prod(shape) * dtype.itemsize > len(message.data):
        raise MessageError(f"{name} of shape {shape} does not fit into {len(message.data)} bytes")
    start = int(message.byte_offset)
    # The index of the last element; an empty tensor needs no byte.
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    needed = start + (last + 1) * dtype.itemsize if math.prod(shape) else start
    if needed > len(message.data):
        raise MessageError(
            f"{name} of shape {shape} needs {needed} bytes, but its data has {len(message.data)}"
        )
    flat = np.frombuffer(message.data, dtype=np.uint8)[start:]
    whole = flat[: flat.size // dtype.itemsize * dtype.itemsize].view(dtype)
    byte_strides = tuple(stride * dtype.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(whole, shape, byte_strides, writeable=False)


def _compact(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _typed(values: NDArray[Any], dtype: type[ScalarT], ndim: int, name: str) -> NDArray[ScalarT]:
    if values.dtype != dtype or values.ndim != ndim:
        wanted = f"{ndim}-dimensional {np.dtype(dtype).name}"
        raise MessageError(f"{name} is {values.dtype.name} of shape {values.shape}, not {wanted}")
    return np.ascontiguousarray(values)


def stage_message(name: str, seconds: float) -> Any:
    """Convert the time of one stage."""
    return StageTime(name=name, duration=float(seconds))


def stage_messages(stages: Mapping[str, float]) -> list[Any]:
    """Convert stage times in seconds."""
    return [stage_message(name, seconds) for name, seconds in stages.items()]


def _stages(messages: Any) -> dict[str, float]:
    return {stage.name: float(stage.duration) for stage in messages}


def _tag_message(tag: Tag) -> Any:
    return TagMessage(label_index=int(tag.label_index), label=tag.label, score=float(tag.score))


def _tag(message: Any) -> Tag:
    return Tag(message.label_index, message.label, message.score)


def _region_message(region: Region) -> Any:
    roi = RegionOfInterest(
        x_offset=int(region.x),
        y_offset=int(region.y),
        width=int(region.width),
        height=int(region.height),
    )
    return RegionMessage(
        label_index=int(region.label_index),
        label=region.label,
        score=float(region.score),
        roi=roi,
    )


def _region(message: Any) -> Region:
    roi = message.roi
    return Region(
        message.label_index,
        message.label,
        message.score,
        roi.x_offset,
        roi.y_offset,
        roi.width,
        roi.height,
    )


def _attribute_message(attribute: Attribute) -> Any:
    return AttributeMessage(
        name=attribute.name,
        value=attribute.value,
        choices=list(attribute.choices),
        probabilities=array("f", attribute.probabilities),
    )


def _attribute(message: Any) -> Attribute:
    choices, probabilities = tuple(message.choices), tuple(message.probabilities)
    if len(choices) != len(probabilities):
        raise MessageError(
            f"attribute {message.name!r} has {len(choices)} choices, {len(probabilities)} "
            "probabilities"
        )
    return Attribute(message.name, message.value, choices, probabilities)


def embedding_message(embedding: Embedding, processing_time: float) -> Any:
    """Convert an embedding to a VisionEmbedding."""
    return VisionEmbedding(
        header=header(embedding.stamp_ns, embedding.frame_id),
        run_id=embedding.run_id,
        sequence=int(embedding.sequence),
        bundle_digest=embedding.bundle_digest,
        image_width=int(embedding.image_size[0]),
        image_height=int(embedding.image_size[1]),
        grid_width=int(embedding.grid_size[0]),
        grid_height=int(embedding.grid_size[1]),
        pooled=tensor_message(embedding.pooled),
        tokens=tensor_message(embedding.tokens),
        token_index=array("H", embedding.token_index.tobytes()),
        tags=[_tag_message(tag) for tag in embedding.tags],
        regions=[_region_message(region) for region in embedding.regions],
        vocabulary_version=int(embedding.vocabulary_version),
        stages=stage_messages(embedding.stages),
        processing_time=float(processing_time),
    )


def embedding_from(message: Any) -> Embedding:
    """Convert a VisionEmbedding.

    Raises:
        MessageError: The message contradicts itself.
    """
    tokens = _typed(tensor_array(message.tokens, "tokens"), np.float16, 2, "tokens")
    token_index = np.array(message.token_index, dtype=np.uint16)
    if len(token_index) != len(tokens):
        raise MessageError(f"it has {len(tokens)} tokens and {len(token_index)} token indices")
    pooled = _typed(tensor_array(message.pooled, "pooled"), np.float32, 1, "pooled")
    if not np.isfinite(pooled).all():
        raise MessageError("pooled holds NaN or infinity")
    if not (message.image_width and message.image_height):
        raise MessageError("its image has no size")
    return Embedding(
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        sequence=message.sequence,
        run_id=message.run_id,
        bundle_digest=message.bundle_digest,
        image_size=(message.image_width, message.image_height),
        grid_size=(message.grid_width, message.grid_height),
        pooled=pooled,
        tokens=tokens,
        token_index=token_index,
        tags=tuple(_tag(tag) for tag in message.tags),
        regions=tuple(_region(region) for region in message.regions),
        vocabulary_version=message.vocabulary_version,
        stages=_stages(message.stages),
    )


def reasoning_message(reasoning: Reasoning, sequence: int, processing_time: float) -> Any:
    """Convert a reasoning to a SceneReasoning."""
    return SceneReasoning(
        header=header(reasoning.stamp_ns, reasoning.frame_id),
        run_id=reasoning.run_id,
        sequence=sequence,
        bundle_digest=reasoning.bundle_digest,
        keyframe_stamp=ns_to_stamp(reasoning.keyframe_stamp_ns),
        is_keyframe=bool(reasoning.is_keyframe),
        trigger=Trigger(reasoning.trigger).value,
        drift=float(reasoning.drift),
        caption=reasoning.caption,
        attributes=[_attribute_message(attribute) for attribute in reasoning.attributes],
        instruction=reasoning.instruction,
        instruction_version=int(reasoning.instruction_version),
        vocabulary_version=int(reasoning.vocabulary_version),
        rung=int(reasoning.rung),
        stages=stage_messages(reasoning.stages),
        processing_time=float(processing_time),
    )


def reasoning_from(message: Any) -> Reasoning:
    """Convert a SceneReasoning.

    Raises:
        MessageError: The message contradicts itself.
    """
    return Reasoning(
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        run_id=message.run_id,
        bundle_digest=message.bundle_digest,
        keyframe_stamp_ns=stamp_to_ns(message.keyframe_stamp),
        is_keyframe=message.is_keyframe,
        trigger=message.trigger,
        drift=message.drift,
        caption=message.caption,
        attributes=tuple(_attribute(attribute) for attribute in message.attributes),
        instruction=message.instruction,
        instruction_version=message.instruction_version,
        vocabulary_version=message.vocabulary_version,
        rung=message.rung,
        stages=_stages(message.stages),
    )


def scene_message(scene: Scene) -> Any:
    """Convert a scene to a SemanticScene."""
    return SemanticScene(
        header=header(scene.stamp_ns, scene.frame_id),
        run_id=scene.run_id,
        sequence=int(scene.sequence),
        bundle_digest=scene.bundle_digest,
        image_width=int(scene.image_size[0]),
        image_height=int(scene.image_size[1]),
        vocabulary_version=int(scene.vocabulary_version),
        instruction_version=int(scene.instruction_version),
        tags=[_tag_message(tag) for tag in scene.tags],
        regions=[_region_message(region) for region in scene.regions],
        attributes=[_attribute_message(attribute) for attribute in scene.attributes],
        hazards=list(scene.hazards),
        conflicts=list(scene.conflicts),
        caption=scene.caption,
        keyframe_stamp=ns_to_stamp(scene.keyframe_stamp_ns),
        embedding_age=float(scene.embedding_age),
        reasoning_age=float(scene.reasoning_age),
        keyframe_age=float(scene.keyframe_age),
        latency=stage_messages(scene.latency),
        rung=int(scene.rung),
        status=int(scene.status),
        reason=scene.reason,
    )


def scene_from(message: Any) -> Scene:
    """Convert a SemanticScene.

    Raises:
        MessageError: The message contradicts itself.
    """
    try:
        status = Status(message.status)
    except ValueError as error:
        raise MessageError(f"its status {message.status} is none of STATUS_*") from error
    return Scene(
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        run_id=message.run_id,
        sequence=message.sequence,
        bundle_digest=message.bundle_digest,
        image_size=(message.image_width, message.image_height),
        vocabulary_version=message.vocabulary_version,
        instruction_version=message.instruction_version,
        tags=tuple(_tag(tag) for tag in message.tags),
        regions=tuple(_region(region) for region in message.regions),
        attributes=tuple(_attribute(attribute) for attribute in message.attributes),
        hazards=tuple(message.hazards),
        conflicts=tuple(message.conflicts),
        caption=message.caption,
        keyframe_stamp_ns=stamp_to_ns(message.keyframe_stamp),
        embedding_age=message.embedding_age,
        reasoning_age=message.reasoning_age,
        keyframe_age=message.keyframe_age,
        latency=_stages(message.latency),
        rung=message.rung,
        status=status,
        reason=message.reason,
    )
