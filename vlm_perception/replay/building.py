# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The domain's objects to messages that rosbags writes: the bytes that the nodes publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle import ModelBundle
from vlm_perception.perception.embedding_info import embedding_info_fields
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.replay.messages import message_types
from vlm_perception.types import Attribute, Embedding, Reasoning, Region, Scene, Tag

EMBEDDING = "vlm_perception/msg/VisionEmbedding"
EMBEDDING_INFO = "vlm_perception/msg/EmbeddingInfo"
REASONING = "vlm_perception/msg/SceneReasoning"
SCENE = "vlm_perception/msg/SemanticScene"
DTYPE_CODES = {"i": 0, "u": 1, "f": 2}


def serialized(message: Any) -> bytes:
    """A message as it goes over the wire and into a bag."""
    return bytes(message_types().serialize_cdr(message, message.__msgtype__))


def embedding_message(embedding: Embedding, seconds: float) -> Any:
    """A VisionEmbedding; `seconds` from arrival to publication."""
    return make(
        EMBEDDING,
        header=header(embedding.stamp_ns, embedding.frame_id),
        run_id=embedding.run_id,
        sequence=embedding.sequence,
        bundle_digest=embedding.bundle_digest,
        image_width=embedding.image_size[0],
        image_height=embedding.image_size[1],
        grid_width=embedding.grid_size[0],
        grid_height=embedding.grid_size[1],
        pooled=_tensor(embedding.pooled),
        tokens=_tensor(embedding.tokens),
        token_index=np.asarray(embedding.token_index, np.uint16),
        tags=[_tag(tag) for tag in embedding.tags],
        regions=[_region(region) for region in embedding.regions],
        vocabulary_version=embedding.vocabulary_version,
        stages=_stages(embedding.stages),
        processing_time=seconds,
    )


def reasoning_message(reasoning: Reasoning, sequence: int, seconds: float) -> Any:
    """A SceneReasoning; `seconds` from the embedding's arrival to publication."""
    return make(
        REASONING,
        header=header(reasoning.stamp_ns, reasoning.frame_id),
        run_id=reasoning.run_id,
        sequence=sequence,
        bundle_digest=reasoning.bundle_digest,
        keyframe_stamp=time_message(reasoning.keyframe_stamp_ns),
        is_keyframe=reasoning.is_keyframe,
        trigger=str(reasoning.trigger),
        drift=reasoning.drift,
        caption=reasoning.caption,
        attributes=[_attribute(attribute) for attribute in reasoning.attributes],
        instruction=reasoning.instruction,
        instruction_version=reasoning.instruction_version,
        vocabulary_version=reasoning.vocabulary_version,
        rung=reasoning.rung,
        stages=_stages(reasoning.stages),
        processing_time=seconds,
    )


def scene_message(scene: Scene) -> Any:
    """A SemanticScene."""
    return make(
        SCENE,
        header=header(scene.stamp_ns, scene.frame_id),
        run_id=scene.run_id,
        sequence=scene.sequence,
        bundle_digest=scene.bundle_digest,
        image_width=scene.image_size[0],
        image_height=scene.image_size[1],
        vocabulary_version=scene.vocabulary_version,
        instruction_version=scene.instruction_version,
        tags=[_tag(tag) for tag in scene.tags],
        regions=[_region(region) for region in scene.regions],
        attributes=[_attribute(attribute) for attribute in scene.attributes],
        hazards=list(scene.hazards),
        conflicts=list(scene.conflicts),
        caption=scene.caption,
        keyframe_stamp=time_message(scene.keyframe_stamp_ns),
        embedding_age=scene.embedding_age,
        reasoning_age=scene.reasoning_age,
        keyframe_age=scene.keyframe_age,
        latency=_stages(scene.latency),
        rung=scene.rung,
        status=int(scene.status),
        reason=scene.reason,
    )


def embedding_info_message(
    bundle: ModelBundle, encoder: VisionEncoder, run_id: str, time_ns: int
) -> Any:
    """The EmbeddingInfo that says what the numbers of the embeddings mean."""
    fields = embedding_info_fields(bundle, encoder)
    return make(EMBEDDING_INFO, header=header(time_ns, ""), run_id=run_id, **fields)


def make(kind: str, **fields: Any) -> Any:
    """A message of that type; all of its fields must be given."""
    return message_types().types[kind](**fields)


def time_message(stamp_ns: int) -> Any:
    """A builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    return make("std_msgs/msg/Header", stamp=time_message(stamp_ns), frame_id=frame_id)


def _tensor(values: NDArray[Any]) -> Any:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return make(
        "vlm_perception/msg/Tensor",
        dtype_code=DTYPE_CODES[values.dtype.kind],
        dtype_bits=values.dtype.itemsize * 8,
        dtype_lanes=1,
        shape=np.array(values.shape, np.int64),
        strides=np.empty(0, np.int64),
        byte_offset=0,
        data=np.frombuffer(little.tobytes(), np.uint8),
    )


def _stages(stages: Mapping[str, float]) -> list[Any]:
    kind = "vlm_perception/msg/StageTime"
    return [make(kind, name=name, duration=seconds) for name, seconds in stages.items()]


def _tag(tag: Tag) -> Any:
    return make(
        "vlm_perception/msg/Tag", label_index=tag.label_index, label=tag.label, score=tag.score
    )


def _region(region: Region) -> Any:
    box = make(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=region.x,
        y_offset=region.y,
        height=region.height,
        width=region.width,
        do_rectify=False,
    )
    return make(
        "vlm_perception/msg/Region",
        label_index=region.label_index,
        label=region.label,
        score=region.score,
        roi=box,
    )


def _attribute(attribute: Attribute) -> Any:
    return make(
        "vlm_perception/msg/Attribute",
        name=attribute.name,
        value=attribute.value,
        choices=list(attribute.choices),
        probabilities=np.array(attribute.probabilities, np.float32),
    )
