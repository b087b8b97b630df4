# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The four processes of the graph, as the demo and the benchmark start them."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.demo.processes import NodeProcesses, NodeSpec
from vlm_perception.demo.source import Source

DEFAULT_BUNDLE = "roadworld-nano"
CAMERA_FRAME = "camera_optical_frame"
NODE_NAMES = ("video_source", "vision_encoder", "language_reasoner", "scene_fusion")


def perception_graph(
    source: Source,
    bundle: str,
    folder: Path,
    *,
    transport: str = "compressed",
    loop: bool = False,
    force_keyframes: bool = False,
) -> NodeProcesses:
    """Prepare video source, vision encoder, language reasoner and scene fusion.

    Images travel compressed unless told otherwise: the recorder then stores the very bytes that the
    encoder saw, and no core pays for encoding them a second time.

    Args:
        source: What to play.
        bundle: Name or absolute path of the model bundle.
        folder: Where logs and parameters of the nodes go.
        transport: `compressed` or `raw`.
        loop: Whether the source begins again at its end.
        force_keyframes: Whether the reasoner works out every tick instead of repeating.
    """
    video = {**source.parameters(transport=transport, loop=loop), "frame_id": CAMERA_FRAME}
    reasoner = {"bundle": bundle, "force_keyframes": force_keyframes}
    parameters = (video, {"bundle": bundle, "image_transport": transport}, reasoner, {})
    specs = [NodeSpec(name, each) for name, each in zip(NODE_NAMES, parameters, strict=True)]
    # Those that listen start first, so that they miss nothing.
    return NodeProcesses(specs[::-1], folder)
