# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The parameters of language_reasoner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vlm_perception.nodes.base.camera_names import check_camera_names
from vlm_perception.nodes.base.parameters import CONFIGURE, FIXED, setting
from vlm_perception.nodes.served_parameters import ServedParameters
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings


@dataclass(frozen=True)
class LanguageSettings(ServedParameters):
    """Parameters of language_reasoner."""

    cameras: tuple[str, ...] = setting(
        (),
        "Cameras to serve in turn, each by its namespace relative to the node's, such as front; "
        "empty: the camera in the node's own namespace.",
        change=FIXED,
        check=check_camera_names,
    )
    niceness: int = setting(
        19,
        "Nice value of the threads that reason and answer: 0 does not lower their priority, 19 "
        "lowers it most, so that the encoder keeps its rate when cores are scarce.",
        minimum=0,
        maximum=19,
        change=CONFIGURE,
    )
    rate_hz: float = setting(
        10.0,
        "Maximum number of embeddings reasoned on per second, for all cameras together.",
        minimum=0.1,
        maximum=60.0,
    )
    drift_threshold: float = setting(
        ReasonerSettings.drift_threshold,
        "Cosine distance from the anchor's event embedding above which a frame is analysed "
        "again; 0 derives it from the temporal module and the running spread.",
        minimum=0.0,
        maximum=2.0,
        change=CONFIGURE,
    )
    max_keyframe_age: float = setting(
        ReasonerSettings.max_keyframe_age,
        "Age of the anchor in seconds, by the stamps, from which a frame is analysed again.",
        minimum=0.0,
        maximum=3600.0,
        change=CONFIGURE,
    )
    min_keyframe_interval: float = setting(
        ReasonerSettings.min_keyframe_interval,
        "Shortest time in seconds, by the stamps, from a key frame to the next one that drift, "
        "tags or a conflict trigger.",
        minimum=0.0,
        maximum=3600.0,
        change=CONFIGURE,
    )
    max_stamp_gap: float = setting(
        ReasonerSettings.max_stamp_gap,
        "A longer step of the stamps in seconds is a time jump: the anchor is dropped.",
        minimum=0.1,
        maximum=1e6,
        change=CONFIGURE,
    )
    max_caption_tokens: int = setting(
        ReasonerSettings.max_caption_tokens,
        "Longest caption or free answer in tokens.",
        minimum=1,
        maximum=1024,
        change=CONFIGURE,
    )
    max_caption_s: float = setting(
        ReasonerSettings.max_caption_s,
        "Longest time for a caption in seconds; after that it is cut short. 0: three times what a "
        "caption of `max_caption_tokens` was measured to take on this machine, and at least 1 s.",
        minimum=0.0,
        maximum=600.0,
        change=CONFIGURE,
    )
    temperature: float = setting(
        ReasonerSettings.temperature,
        "Temperature at which captions, descriptions and free answers are sampled; 0: always the "
        "likeliest token.",
        minimum=0.0,
        maximum=10.0,
        change=CONFIGURE,
    )
    top_p: float = setting(
        ReasonerSettings.top_p,
        "Sample only from the likeliest tokens that together have this probability; 1: from all.",
        minimum=0.0,
        maximum=1.0,
        change=CONFIGURE,
    )
    seed: int = setting(
        ReasonerSettings.seed,
        "Random seed of each text: the same frame, prompt and seed give the same text.",
        minimum=0,
        maximum=2**31,
        change=CONFIGURE,
    )
    questions: str = setting(
        "",
        "YAML file with the typed questions, such as config/questions/road.yaml; empty: the "
        "bundle's own.",
        change=CONFIGURE,
    )
    keep_questions: tuple[str, ...] = setting(
        ReasonerSettings.keep_questions,
        "Names of the questions that are still asked when the node must reduce its work; empty: "
        "the first half.",
        change=CONFIGURE,
    )
    confidence_floor: float = setting(
        ReasonerSettings.confidence_floor,
        "Probability below which an attribute's value is published as `unknown`; 0: never.",
        minimum=0.0,
        maximum=1.0,
        change=CONFIGURE,
    )
    answer_timeout: float = setting(
        2.0,
        "Longest wait for an answer of ~/ask in seconds, unless the request sets one.",
        minimum=0.01,
        maximum=600.0,
    )
    force_keyframes: bool = setting(
        ReasonerSettings.force_keyframes,
        "Analyse every frame in full, for measurements.",
        change=CONFIGURE,
    )
    input_timeout: float = setting(
        2.0,
        "Seconds without an embedding after which the diagnostics report an error.",
        minimum=0.1,
        maximum=3600.0,
    )

    def reasoner_settings(self) -> ReasonerSettings:
        """Take over the parameters that have the name of a setting."""
        names = (field.name for field in dataclasses.fields(ReasonerSettings))
        return ReasonerSettings(**{name: getattr(self, name) for name in names})
