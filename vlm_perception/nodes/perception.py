#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""All nodes in one process, with the same names and topics: the three, or those of all cameras.

Embeddings go from node to node as objects; they are published while there are other subscribers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from vlm_perception.nodes.io import intra_process
from vlm_perception.nodes.language_reasoner import LanguageReasonerNode
from vlm_perception.nodes.process.runner import run
from vlm_perception.nodes.scene_fusion import SceneFusionNode
from vlm_perception.nodes.vision_encoder import VisionEncoderNode
from vlm_perception.perception.device_tokens import DeviceTokens


def nodes() -> Iterator[Any]:
    """Make the language node, and for each camera that it serves an encoder and a fusion.

    The others get the embeddings of an encoder in the process.
    """
    device_tokens = DeviceTokens()
    reasoner = LanguageReasonerNode(device_tokens=device_tokens)
    yield reasoner
    here = reasoner.get_namespace().rstrip("/")
    for camera in reasoner.settings.cameras or ("",):
        namespace = f"{here}/{camera}" if camera else ""
        encoder = VisionEncoderNode(namespace=namespace, device_tokens=device_tokens)
        intra_process.offer(encoder.resolve_topic_name("embedding"))
        yield encoder
        yield SceneFusionNode(namespace=namespace)


def main() -> NoReturn:
    """Run the nodes as one process."""
    run(nodes)


if __name__ == "__main__":
    main()
