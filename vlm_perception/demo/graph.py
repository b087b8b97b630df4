# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The four processes of the graph, as the demo and the benchmark start them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlm_perception.demo.observer import Observer
from vlm_perception.demo.processes import NodeProcesses, NodeSpec, Parameter
from vlm_perception.demo.source import Source
from vlm_perception.demo.topics import EMBEDDING_INFO, IMAGE

DEFAULT_BUNDLE = "roadworld-nano"
CAMERA_FRAME = "camera_optical_frame"
LISTENERS_WITHIN_S = 10.0


@dataclass(frozen=True)
class GraphOptions:
    """What to play into which model, and how.

    Images travel compressed unless told otherwise: the recorder then stores the very bytes that the
    encoder saw, and no core pays for encoding them a second time.
    """

    source: Source
    bundle: str
    """Name or absolute path of the model bundle."""
    transport: str = "compressed"
    """`compressed` or `raw`."""
    loop: bool = False
    """Whether the source begins again at its end."""
    force_keyframes: bool = False
    """Whether the reasoner works out every tick instead of repeating."""


class Graph:
    """Starts the nodes that listen, and the source only when the encoder is ready for it.

    So no image of a short video is lost while models load.
    """

    def __init__(self, options: GraphOptions, processes: NodeProcesses, observer: Observer) -> None:
        """Start the three nodes; the observer must be watching `embedding_info`."""
        self._options = options
        self._processes = processes
        self._observer = observer
        self.playing = False
        processes.start(NodeSpec("scene_fusion"))
        reasoner: Mapping[str, Parameter] = {
            "bundle": options.bundle,
            "force_keyframes": options.force_keyframes,
        }
        processes.start(NodeSpec("language_reasoner", reasoner))
        encoder = {"bundle": options.bundle, "image_transport": options.transport}
        processes.start(NodeSpec("vision_encoder", encoder))

    def play_when_ready(self) -> None:
        """Start the source once the encoder has told what its embeddings are; call it often."""
        if not self.playing and self._observer.meters[EMBEDDING_INFO].count:
            self._processes.start(self._source())
            self.playing = True

    def _source(self) -> NodeSpec:
        options = self._options
        parameters: Mapping[str, Parameter] = {
            "source": options.source.location,
            "rate_hz": options.source.rate_hz,
            "transport": options.transport,
            "loop": options.loop,
            "frame_id": CAMERA_FRAME,
            "wait_for_subscriber_s": LISTENERS_WITHIN_S,
            # The encoder, and the observer where it records: neither may miss the first images.
            "wait_for_subscribers": 1 + (IMAGE in self._observer.meters),
        }
        return NodeSpec("video_source", parameters)
