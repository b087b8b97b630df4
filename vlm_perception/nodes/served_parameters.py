# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The parameters of a language model that a server runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vlm_perception.nodes.base.networks import NetworkSettings
from vlm_perception.nodes.base.parameters import CONFIGURE, FIXED, setting
from vlm_perception.perception.details import LONGEST_SIDE
from vlm_perception.perception.language.served.settings import (
    BY_MODEL,
    OF_BUNDLE,
    SERVED,
    ServedSettings,
)
from vlm_perception.perception.locating.formats.known import FORMATS
from vlm_perception.perception.served.endpoint import KEY_VARIABLE

LEAST_SIDE = 64


@dataclass(frozen=True)
class ServedParameters(NetworkSettings):
    """Which language model is asked, and how, where it is not the bundle's own."""

    language: str = setting(
        ServedSettings.language,
        "Which language model analyses the frames: that of the `bundle`, or one that is `served` "
        "by an OpenAI-compatible server; then the bundle needs none.",
        choices=(OF_BUNDLE, SERVED),
        change=FIXED,
    )
    endpoint: str = setting(
        ServedSettings.endpoint,
        "Address of the server, for `language` served.",
        change=CONFIGURE,
    )
    model: str = setting(
        "",
        "Name of the model on the server, such as Qwen/Qwen3-VL-2B-Instruct.",
        change=CONFIGURE,
    )
    allow_remote: bool = setting(
        False,
        "Whether the server may be on another machine: images of the camera are sent there.",
        change=CONFIGURE,
    )
    allow_plain_http: bool = setting(
        False,
        "Whether a server on another machine may be asked without TLS, in a network that you "
        "trust.",
        change=CONFIGURE,
    )
    key_file: str = setting(
        "",
        "File with the key to the server, which only its owner may read (chmod 600); empty: the "
        f"environment variable {KEY_VARIABLE}, if it is set.",
        change=CONFIGURE,
    )
    caption_prompt: str = setting(
        ServedSettings.caption_prompt,
        "What a served model is asked for a caption while there is no instruction.",
        change=CONFIGURE,
    )
    served_image_size: int = setting(
        ServedSettings.served_image_size,
        "Longer side in pixels of the images that are sent to the server; never enlarged.",
        minimum=LEAST_SIDE,
        maximum=LONGEST_SIDE,
        change=CONFIGURE,
    )
    served_jpeg_quality: int = setting(
        ServedSettings.served_jpeg_quality,
        "Quality of their JPEGs.",
        minimum=1,
        maximum=100,
        change=CONFIGURE,
    )
    served_deadline: float = setting(
        ServedSettings.served_deadline,
        "Longest time in seconds for an analysis by a served model; then it is given up.",
        minimum=0.1,
        maximum=600.0,
        change=CONFIGURE,
    )
    frames: int = setting(
        ServedSettings.frames,
        "Images in a request: that of the frame, and those of the frames before it that were "
        "analysed in the last 10 s, the oldest first. Where the server refuses so many, the "
        "diagnostics say so.",
        minimum=1,
        maximum=16,
        change=CONFIGURE,
    )
    slots: int = setting(
        ServedSettings.slots,
        "Requests that the node sends to the server at a time, `~/ask` and `~/describe` included.",
        minimum=1,
        maximum=64,
        change=CONFIGURE,
    )
    locate_format: str = setting(
        ServedSettings.locate_format,
        "How a served model writes boxes, for `~/locate` with the method model; `auto`: as its "
        "name says, and not at all where that is unknown.",
        choices=(BY_MODEL, *FORMATS),
        change=CONFIGURE,
    )
    served_record: str = setting(
        "",
        "File in which each answer of the server is written down, without images and prompts, for "
        "`replay --served`; empty: none.",
        change=CONFIGURE,
    )

    def served_settings(self) -> ServedSettings:
        """Take over the parameters that have the name of a setting."""
        names = (field.name for field in dataclasses.fields(ServedSettings))
        return ServedSettings(**{name: getattr(self, name) for name in names})
