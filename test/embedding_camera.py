# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the language node sees of a camera and its encoder: embeddings over DDS."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
from ros_graph import BEST_EFFORT, Graph

from vlm_perception.bundle import ModelBundle
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import EMBEDDING
from vlm_perception.msg import VisionEmbedding
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame

VOCABULARY_VERSION = 7


class EmbeddingCamera:
    """Sends the embedding of one picture again and again, each time with a new stamp."""

    def __init__(
        self, graph: Graph, bundle: ModelBundle, rate_hz: float = 30.0, name: str = "front"
    ) -> None:
        self._period = 1.0 / rate_hz
        image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
        self.seen = VisionEncoder(bundle).encode(Frame(image, 1, "camera"), 0)
        self._publisher = graph.publisher(VisionEmbedding, f"{name}/embedding", BEST_EFFORT)
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
            self._publisher.publish(EMBEDDING.write(seen, ROS, processing_time=0.01))
