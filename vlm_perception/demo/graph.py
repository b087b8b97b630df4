# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of the graph, as the demo and the benchmark start them."""

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
PROCESSES, SINGLE = "processes", "single"


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
    composition: str = PROCESSES
    """`processes`: each node in a process of its own; `single`: the three in one."""


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
        for spec in self._nodes():
            processes.start(spec)

    def play_when_ready(self) -> None:
        """Start the source once the encoder has told what its embeddings are; call it often."""
        if not self.playing and self._observer.meters[EMBEDDING_INFO].count:
            self._processes.start(self._source())
            self.playing = True

    def _nodes(self) -> list[NodeSpec]:
        options = self._options
        images: Mapping[str, Parameter] = {"image_transport": options.transport}
        model: Mapping[str, Parameter] = {"bundle": options.bundle}
        forced: Mapping[str, Parameter] = {"force_keyframes": options.force_keyframes}
        names = ("scene_fusion", "language_reasoner", "vision_encoder")
        if options.composition == SINGLE:
            return [NodeSpec("perception", {**images, **model, **forced}, holds=names)]
        fusion, reasoner, encoder = names
        return [
            NodeSpec(fusion),
            NodeSpec(reasoner, {**model, **forced}),
            NodeSpec(encoder, {**model, **images}),
        ]

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
