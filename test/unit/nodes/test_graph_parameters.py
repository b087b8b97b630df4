# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The demo gives its nodes the parameters that the launch file would give them."""

from __future__ import annotations

import dataclasses

import pytest

from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.nodes.launch.arguments import (
    ARGUMENTS_OF,
    ENCODER,
    FUSION,
    PERCEPTION,
    REASONER,
    node_parameters,
    read_arguments,
)
from vlm_perception.nodes.scene_fusion import FusionNodeSettings
from vlm_perception.nodes.vision_encoder import EncoderSettings
from vlm_perception.rosgraph.launch import PROCESSES, SINGLE, GraphOptions, node_specs
from vlm_perception.rosgraph.source import Source

SETTINGS = {ENCODER: EncoderSettings, FUSION: FusionNodeSettings, REASONER: LanguageSettings}
SOURCE = Source("a video", "/a/video.mp4", 30.0, 1.0, (640, 360))


@pytest.mark.parametrize("node", SETTINGS)
def test_a_node_gets_each_launch_argument_that_is_a_parameter_of_it(node: str) -> None:
    parameters = {field.name for field in dataclasses.fields(SETTINGS[node])}
    assert set(ARGUMENTS_OF[node]) == parameters & {argument.name for argument in PERCEPTION}


@pytest.mark.parametrize("composition", [PROCESSES, SINGLE])
@pytest.mark.parametrize("transport", ["raw", "compressed"])
@pytest.mark.parametrize("cameras", [(), ("front", "rear")])
def test_the_demo_gives_each_node_what_the_launch_file_gives(
    composition: str, transport: str, cameras: tuple[str, ...]
) -> None:
    bundle = "roadworld-nano"
    options = GraphOptions(
        SOURCE, bundle, transport=transport, composition=composition, cameras=cameras
    )
    given = {"bundle": bundle, "image_transport": transport, "cameras": " ".join(cameras)}
    launched = node_parameters(read_arguments(PERCEPTION, given))
    launched[REASONER]["force_keyframes"] = False
    started = {}
    for spec in node_specs(options):
        started |= spec.holds or {spec.name: spec.parameters}
    assert started == launched
    for node, parameters in started.items():
        known = {field.name for field in dataclasses.fields(SETTINGS[node])}
        assert parameters.keys() <= known, "a node warns of a parameter that it does not have"
