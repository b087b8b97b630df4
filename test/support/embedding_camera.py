# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the language node sees of a camera and its encoder: embeddings over DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.ros_graph import BEST_EFFORT, Graph

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import DETAIL, EMBEDDING
from vlm_perception.msg import FrameDetail, FrameRequest, VisionEmbedding
from vlm_perception.nodes.io.details.topics import detail_topic, want_topic
from vlm_perception.nodes.io.qos import results
from vlm_perception.perception.details import Details, Kind, without_detail
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame
from vlm_perception.types import FrameDetail as Detail

VOCABULARY_VERSION = 7


class EmbeddingCamera:
    """Sends the embedding of one picture again and again, each time with a new stamp."""

    def __init__(
        self,
        graph: Graph,
        bundle: ModelBundle,
        rate_hz: float = 30.0,
        name: str = "front",
        *,
        on_demand: bool = False,
        image: NDArray[np.uint8] | None = None,
    ) -> None:
        """Begin; with on_demand what `answer` gives of a frame is sent when it is asked for, and so
        are its patches, which `patches` gives.

        Without, patch tokens are in each embedding, as in recordings of earlier versions.
        """
        self._period, self._on_demand = 1.0 / rate_hz, on_demand
        if image is None:
            image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
        run_id = f"run of {name}"
        self.seen = VisionEncoder(bundle, run_id=run_id).encode(Frame(image, 1, "camera"), 0)
        self.details = Details(bundle.manifest)
        self.answer: Callable[[Embedding], Detail | None] = self.details.of
        topic = f"{name}/embedding"
        patches = Details(bundle.manifest, Kind.PATCHES)
        self.patches: Callable[[Embedding], Detail | None] = patches.of
        if on_demand:
            self._serve(graph, topic, Kind.MODEL, self._own_detail)
            self._serve(graph, topic, Kind.PATCHES, self._own_patches)
        self._publisher = graph.publisher(VisionEmbedding, topic, BEST_EFFORT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for sequence in range(100_000):
            if self._stop.wait(self._period):
                return
            seen: Embedding = replace(
                self.seen,
                stamp_ns=time.time_ns(),
                sequence=sequence,
                vocabulary_version=VOCABULARY_VERSION,
            )
            sent = without_detail(seen) if self._on_demand else seen
            self._publisher.publish(EMBEDDING.write(sent, ROS, processing_time=0.01))

    def _own_detail(self, frame: Embedding) -> Detail | None:
        return self.answer(frame)

    def _own_patches(self, frame: Embedding) -> Detail | None:
        return self.patches(frame)

    def _serve(
        self, graph: Graph, topic: str, kind: Kind, answer: Callable[[Embedding], Detail | None]
    ) -> None:
        details = graph.node.create_publisher(FrameDetail, detail_topic(topic, kind), results(2))

        def on_want(message: Any) -> None:
            detail = answer(replace(self.seen, sequence=message.sequence))
            if detail is not None:
                details.publish(DETAIL.write(detail, ROS))

        graph.node.create_subscription(FrameRequest, want_topic(topic, kind), on_want, results(4))
