#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""All three nodes in one process, with the same names and topics."""

from __future__ import annotations

from typing import NoReturn

from vlm_perception.nodes.language_reasoner import LanguageReasonerNode
from vlm_perception.nodes.process import run
from vlm_perception.nodes.scene_fusion import SceneFusionNode
from vlm_perception.nodes.vision_encoder import VisionEncoderNode


def main() -> NoReturn:
    """Run the three nodes as one process."""
    run(VisionEncoderNode, LanguageReasonerNode, SceneFusionNode)


if __name__ == "__main__":
    main()
