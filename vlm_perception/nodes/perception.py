#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""All three nodes in one process, with the same names and topics.

Embeddings go from node to node as objects; they are published, too, for whoever else listens.
"""

from __future__ import annotations

from typing import NoReturn

from vlm_perception.nodes import handover
from vlm_perception.nodes.language_reasoner import LanguageReasonerNode
from vlm_perception.nodes.process import run
from vlm_perception.nodes.scene_fusion import SceneFusionNode
from vlm_perception.nodes.vision_encoder import VisionEncoderNode


def encoder() -> VisionEncoderNode:
    """Make the encoder, whose embeddings the other two then get in the process."""
    node = VisionEncoderNode()
    handover.offer(node.resolve_topic_name("embedding"))
    return node


def main() -> NoReturn:
    """Run the three nodes as one process."""
    run(encoder, LanguageReasonerNode, SceneFusionNode)


if __name__ == "__main__":
    main()
