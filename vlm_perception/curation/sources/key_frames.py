# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The frames of a recording that a bundle's key-frame gate takes.

What the gate remembers is not stored: so a task finds all its key frames first, and stores where
they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from vlm_perception.bundle.bundle import BundleError, ModelBundle, find_bundle, read_manifest
from vlm_perception.curation.json_lines import json_line
from vlm_perception.curation.recipe import CurationError
from vlm_perception.outputs.durable import write_bytes
from vlm_perception.perception.fusion.stamp_order import Order, StampOrder
from vlm_perception.perception.reasoning.keyframes import KeyframePolicy, KeyframeSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.temporal_state import TemporalState, bundle_attention
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import CameraFrame
from vlm_perception.types import Frame

PLACES = "places"
"""In the stage's unfinished folder: the key frames of each recording that was looked through."""

Triggers = dict[int, str]
"""Why a frame is a key frame, by its place among all frames of its recording."""


def bundle_digest(name_or_path: str) -> str:
    """The digest of a bundle, by its manifest alone.

    Raises:
        CurationError: there is no such bundle.
    """
    try:
        return read_manifest(find_bundle(name_or_path)).digest
    except BundleError as error:
        raise CurationError(f"key_frames: {error}") from error


def key_frames(
    frames: Iterable[CameraFrame], bundle: str, digest: str, about: object, unfinished: Path
) -> Triggers:
    """Find the key frames of a recording, once; the next call reads what the first has found.

    Args:
        frames: all of the recording.
        bundle: its name or path.
        digest: that it had when the stage was begun.
        about: names the recording, as JSON.
        unfinished: the folder of the stage, where this is kept.

    Raises:
        CurationError: the bundle is another one now.
        BundleError: it cannot be used.
    """
    named = hashlib.sha256(json_line([about, digest])).hexdigest()[:16]
    file = unfinished / PLACES / f"{named}.json"
    if not file.exists():
        gate = _Gate(bundle, digest)
        found: Triggers = {}
        try:
            for frame in frames:
                trigger = gate.trigger(frame)
                if trigger:
                    found[frame.index] = trigger
        except ReplayError:
            # Whoever takes the frames tells it.
            pass
        file.parent.mkdir(exist_ok=True)
        write_bytes(file, json.dumps(list(found.items())).encode())
    return dict(json.loads(file.read_bytes()))


class _Gate:
    """The gate of the language node with its defaults, whose analyses take no time."""

    def __init__(self, name_or_path: str, digest: str) -> None:
        bundle = ModelBundle.load(name_or_path)
        if bundle.digest != digest:
            raise CurationError(
                f"the bundle {name_or_path} was replaced while the stage was made; run again, and "
                "the stage is begun again"
            )
        self._encoder = VisionEncoder(bundle)
        width = bundle.manifest.vision.embedding_width
        self._temporal = TemporalState(width, bundle_attention(bundle))
        self._policy = KeyframePolicy(KeyframeSettings())
        self._order = StampOrder()

    def trigger(self, frame: CameraFrame) -> str:
        """Why a frame is a key frame; empty: it is none."""
        # A stamp of 0 is unknown, and would make each frame one.
        stamp_ns = frame.stamp_ns or frame.time_ns
        if frame.pixels is None:
            return ""
        order = self._order.judge(stamp_ns).order
        if order is Order.LATE:
            return ""
        if order is Order.JUMPED:
            self._policy.reset()
            self._temporal.reset()
        embedding = self._encoder.encode(Frame(frame.pixels, stamp_ns), frame.index)
        attended = self._temporal.attend(embedding.pooled, stamp_ns)
        decision = self._policy.decide(embedding, attended, 0)
        if not decision.is_keyframe:
            return ""
        self._policy.set_anchor(embedding, attended, 0)
        return decision.trigger.value
