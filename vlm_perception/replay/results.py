# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the results of each frame: scene log, bag, and a thumbnail of each key frame."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.duration_histogram import Durations
from vlm_perception.messages.codec import header
from vlm_perception.messages.markers import markers_message
from vlm_perception.messages.rosbags import ROSBAGS, serialized
from vlm_perception.messages.tables import DETAIL, EMBEDDING, EMBEDDING_INFO, REASONING, SCENE
from vlm_perception.perception.details import without_detail
from vlm_perception.perception.fusion.stamp_order import Order
from vlm_perception.perception.vision.embedding_info import embedding_info_fields
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.replay.pipeline import RUN_ID, Pipeline, Tick
from vlm_perception.replay.recordings.source import CameraFrame
from vlm_perception.replay.recordings.writer import OutputBag
from vlm_perception.replay.report.scene_log import (
    Record,
    fault_record,
    frame_record,
    line,
    reasoning_record,
)
from vlm_perception.types import Frame

THUMBNAIL_WIDTH = 320
THUMBNAIL_QUALITY = 80
REMEMBERED = 32
"""Frames whose thumbnails are kept until the language path reaches them."""


class Results:
    """The growing results of a run."""

    def __init__(
        self, log: Path, keyframes: Path, bag: OutputBag, counts: dict[str, int] | None
    ) -> None:
        """Continue after the end of the log.

        Args:
            log: the scene log, which holds its first line at least.
            keyframes: folder for the thumbnails.
            bag: the part of the bag that is written now.
            counts: those of the run that is continued.
        """
        keyframes.mkdir(exist_ok=True)
        self._log = log.open("a", encoding="utf-8", buffering=1 << 16)
        self._keyframes = keyframes
        self.bag = bag
        self.left_out = bag.left_out
        self.counts = counts or {"frames": 0, "faults": 0, "reasonings": 0, "keyframes": 0}
        self.wall = {name: Durations() for name in ("read and decode", "perceive", "write")}
        self._small: deque[tuple[int, NDArray[np.uint8]]] = deque(maxlen=REMEMBERED)
        self._embedding_info = b""

    def describe(self, bundle: ModelBundle, encoder: VisionEncoder) -> None:
        """Let the bag begin with what the embeddings mean."""
        fields = embedding_info_fields(bundle, encoder)
        info = ROSBAGS[EMBEDDING_INFO](header=header(0, "", ROSBAGS), run_id=RUN_ID, **fields)
        self._embedding_info = serialized(info)

    def take(self, frame: CameraFrame, pipeline: Pipeline) -> None:
        """Perceive a frame and write down what comes of it."""
        if self._embedding_info:
            self.bag.write("/embedding_info", frame.time_ns, self._embedding_info)
            self._embedding_info = b""
        if frame.message:
            self.bag.write_image(frame.time_ns, frame.message)
        if frame.pixels is None:
            self._fault(frame, frame.fault, frame.fault_text)
            return
        if not pipeline.takes(frame.stamp_ns):
            self._fault(frame, "dropped", "the robot did not encode it")
            return
        began = time.monotonic()
        outcome = pipeline.feed(Frame(frame.pixels, frame.stamp_ns, frame.frame_id), frame.time_ns)
        perceived = time.monotonic()
        self.wall["perceive"].add(perceived - began)
        if outcome.embedding is None or outcome.scene is None:
            self._fault(frame, "out_of_order", "it is older than the image before it")
            return
        if outcome.order is Order.JUMPED:
            self._put({"event": "time_jump", "frame": frame.index, "time": frame.time_ns})
        self._small.append((frame.stamp_ns, _small(frame.pixels)))
        for tick in outcome.ticks:
            self._take_tick(tick)
        self._put(frame_record(frame, outcome.scene))
        at_ns = outcome.embedded_ns
        sent = without_detail(outcome.embedding)
        embedding = EMBEDDING.write(sent, ROSBAGS, processing_time=outcome.seconds)
        self.bag.write("/embedding", at_ns, serialized(embedding))
        self.bag.write("/scene", at_ns, serialized(SCENE.write(outcome.scene, ROSBAGS)))
        # Without a frame there is no place to draw them.
        if outcome.scene.frame_id:
            self.bag.write("/scene/markers", at_ns, serialized(markers_message(outcome.scene)))
        self.counts["frames"] += 1
        self.wall["write"].add(time.monotonic() - perceived)

    def finish(self, pipeline: Pipeline, *, whole: bool) -> None:
        """Write what the language path still owes, and that the log is at its end."""
        for tick in pipeline.finish():
            self._take_tick(tick)
        self._put({"end": "whole" if whole else "losses", **self.counts})

    def flush(self) -> None:
        """Bring the log to the disk."""
        if not self._log.closed:
            self._log.flush()

    def close(self) -> None:
        """Close log and bag; what was written is whole."""
        self._log.close()
        self.bag.close()

    def _take_tick(self, tick: Tick) -> None:
        self._put(reasoning_record(tick))
        if tick.detail is not None:
            detail = serialized(DETAIL.write(tick.detail, ROSBAGS))
            self.bag.write("/embedding/detail", tick.began_ns, detail)
        message = REASONING.write(
            tick.reasoning, ROSBAGS, sequence=tick.sequence, processing_time=tick.seconds
        )
        self.bag.write("/reasoning", tick.ended_ns, serialized(message))
        self.counts["reasonings"] += 1
        if tick.reasoning.is_keyframe:
            self.counts["keyframes"] += 1
            self._write_small(tick)

    def _write_small(self, tick: Tick) -> None:
        stamp_ns = tick.reasoning.stamp_ns
        found = next((each for stamp, each in reversed(self._small) if stamp == stamp_ns), None)
        if found is not None:
            file = self._keyframes / f"{tick.sequence:08d}.jpg"
            cv2.imwrite(str(file), found, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])

    def _fault(self, frame: CameraFrame, kind: str, text: str) -> None:
        self._put(fault_record(frame, kind, text))
        self.counts["faults"] += 1

    def _put(self, record: Record) -> None:
        self._log.write(line(record))


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A BGR thumbnail."""
    height, width = pixels.shape[:2]
    size = (THUMBNAIL_WIDTH, max(1, round(height * THUMBNAIL_WIDTH / width)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2BGR), dtype=np.uint8)
