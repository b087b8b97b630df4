# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of the graph, as the demo and the benchmark start them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vlm_perception.nodes.launch.arguments import node_parameters
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.processes import NodeProcesses, NodeSpec, Parameter
from vlm_perception.rosgraph.source import Source
from vlm_perception.rosgraph.topics import EMBEDDING_INFO, IMAGE

DEFAULT_BUNDLE = "roadworld-nano"
CAMERA_FRAME = "camera_optical_frame"
LISTENERS_WITHIN_S = 10.0
PROCESSES, SINGLE = "processes", "single"
FUSION, REASONER, ENCODER = "scene_fusion", "language_reasoner", "vision_encoder"


@dataclass(frozen=True)
class GraphOptions:
    """What to play into which model, and how.

    Images are compressed by default: the recorder then stores the very bytes that the encoder saw,
    and no core pays for encoding them a second time.
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
    encoder_threads: int | None = None
    """Of the encoder's network; None: as the node has it."""
    composition: str = PROCESSES
    """`processes`: each node in a process of its own; `single`: the three in one."""
    namespace: str = ""
    """Of the nodes of this camera."""
    nodes: tuple[str, ...] = (FUSION, REASONER, ENCODER)
    """Those to start."""
    cameras: tuple[str, ...] = ()
    """What the language node serves; empty: the one camera in its namespace."""
    language: Mapping[str, Parameter] = field(default_factory=dict)
    """Further parameters of the language node."""


class Graph:
    """Starts the nodes that listen, and the source only when the encoder is ready for it.

    So no image of a short video is lost while models load.
    """

    def __init__(self, options: GraphOptions, processes: NodeProcesses, observer: Observer) -> None:
        """Start the nodes; the observer must be watching `embedding_info` in their namespace."""
        self._options = options
        self._processes = processes
        self._observer = observer
        self.playing = False
        for spec in node_specs(options):
            processes.start(spec)

    def play_when_ready(self) -> None:
        """Start the source once the encoder has published embedding_info; call it often."""
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
            # The encoder, scene_fusion, which listens until there is an embedding, and the observer
            # where it records: none may miss the first images.
            "wait_for_subscribers": 2 + (IMAGE in self._observer.meters),
        }
        return NodeSpec("video_source", parameters, namespace=options.namespace)


def node_specs(options: GraphOptions) -> list[NodeSpec]:
    """The processes that hold the nodes, with the parameters that the launch file would give."""
    values = {
        "bundle": options.bundle,
        "image_transport": options.transport,
        "cameras": list(options.cameras),
    }
    parameters: dict[str, dict[str, Parameter]] = node_parameters(values)
    parameters[REASONER] |= {"force_keyframes": options.force_keyframes, **options.language}
    if options.encoder_threads is not None:
        parameters[ENCODER]["threads"] = options.encoder_threads
    if options.composition == SINGLE and options.nodes:
        return [NodeSpec("perception", holds={name: parameters[name] for name in options.nodes})]
    return [NodeSpec(name, parameters[name], namespace=options.namespace) for name in options.nodes]


class Cameras:
    """Several cameras, each with nodes in a namespace of its own, and one language node for all."""

    def __init__(
        self,
        options: GraphOptions,
        sources: Mapping[str, Source],
        processes: NodeProcesses,
        observers: Mapping[str, Observer],
    ) -> None:
        """Start the nodes.

        Args:
            options: what holds for all.
            sources: what each camera plays, by its name.
            processes: where they run.
            observers: of each camera's namespace; they must be watching `embedding_info`.
        """
        own: tuple[str, ...] = (FUSION, ENCODER)
        shared = replace(options, cameras=tuple(sources), nodes=(REASONER,))
        if options.composition == SINGLE:
            own, shared = (), replace(shared, nodes=(FUSION, REASONER, ENCODER))
        for spec in node_specs(shared):
            processes.start(spec)
        self._graphs = [
            Graph(
                replace(options, source=source, namespace=name, nodes=own),
                processes,
                observers[name],
            )
            for name, source in sources.items()
        ]

    def play_when_ready(self) -> None:
        """Start the source of each camera whose encoder is ready for it; call it often."""
        for graph in self._graphs:
            graph.play_when_ready()
