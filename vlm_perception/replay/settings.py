# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes' parameters, from the same file that they are launched with."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.share import share_folder
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.media.image_message import ImageOptions
from vlm_perception.perception.fusion.rules import Contradiction, Hazard, RuleError
from vlm_perception.perception.fusion.scene import FusionSettings
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.replay.recordings.errors import ReplayError

ENCODER, REASONER, FUSION = "vision_encoder", "language_reasoner", "scene_fusion"


@dataclass(frozen=True)
class PipelineSettings:
    """The nodes' parameters that affect their results."""

    bundle: str = "roadworld-nano"
    temporal: bool = True
    vocabulary: str = ""
    """File with the labels to look for; empty: the bundle's own."""
    images: ImageOptions = field(default_factory=ImageOptions)
    rate_hz: float = 10.0
    questions: str = ""
    """File with the typed questions; empty: the bundle's own."""
    reasoner: ReasonerSettings = field(default_factory=ReasonerSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    served: ServedSettings | None = None
    """For a language model that a server runs; None: the bundle's own."""

    def described(self) -> dict[str, Any]:
        """The settings as they are written into a log; the way to a server is left out."""
        described = dataclasses.asdict(self)
        if not self.vocabulary:
            del described["vocabulary"]
        if self.served is None:
            del described["served"]
        else:
            for private in ("endpoint", "key_file", "allow_remote", "allow_plain_http"):
                del described["served"][private]
        return described


def default_parameters() -> Path:
    """The file of parameters that ships with the package."""
    return share_folder() / "config" / "perception.yaml"


def load_settings(file: Path) -> PipelineSettings:
    """Read a file of ROS parameters.

    Raises:
        ReplayError: it cannot be read, or a parameter has a value that cannot be used.
    """
    try:
        content = read_yaml(file) or {}
        encoder, reasoner, fusion = (_of(content, name) for name in (ENCODER, REASONER, FUSION))
        lines = TypeAdapter(tuple[str, ...]).validate_python
        rules = [Contradiction.parse(rule) for rule in lines(fusion.pop("contradictions", ()))]
        hazards = [Hazard.parse(hazard) for hazard in lines(fusion.pop("hazards", ()))]
        watched = _filled(FusionSettings, fusion)
        served = _filled(ServedSettings, reasoner)
        return PipelineSettings(
            bundle=_value(encoder, "bundle", str, PipelineSettings.bundle),
            temporal=_value(encoder, "temporal", bool, PipelineSettings.temporal),
            vocabulary=_value(encoder, "vocabulary", str, PipelineSettings.vocabulary),
            images=_filled(ImageOptions, encoder),
            rate_hz=_value(reasoner, "rate_hz", float, PipelineSettings.rate_hz),
            questions=_value(reasoner, "questions", str, PipelineSettings.questions),
            reasoner=_filled(ReasonerSettings, reasoner),
            fusion=dataclasses.replace(
                watched, contradictions=tuple(rules), hazards=tuple(hazards)
            ),
            served=served if served.is_served else None,
        )
    except ValidationError as error:
        raise ReplayError(f"{file}: {describe_errors(error)}") from error
    except (OSError, YamlError, RuleError) as error:
        raise ReplayError(f"{file} is not a ROS parameter file: {error}") from error


def _of(content: Any, node: str) -> dict[str, Any]:
    """A node's parameters: those of all nodes, overlaid by those that name it.

    Raises:
        YamlError: the content has another structure, or a number is none.
    """
    merged: dict[str, Any] = {}
    for pattern in ("/**", f"/**/{node}", f"/{node}", node):
        merged |= _section(_section(content, pattern), "ros__parameters")
    for name, value in merged.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise YamlError(f"{name} is {value}; give a finite number")
    return merged


def _section(content: Any, name: str) -> dict[str, Any]:
    """The value under a name; nothing if it is missing or empty.

    Raises:
        YamlError: the content, or that value, is not a mapping.
    """
    found = (content.get(name) or {}) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise YamlError(f"{name!r} is not a section of parameters; write `{name}:` and below it")
    return found


def _value(parameters: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = parameters.get(name, default)
    return TypeAdapter(kind).validate_python(value)


def _filled(settings: Any, parameters: dict[str, Any]) -> Any:
    """Settings with those parameters that have the name of a field."""
    names = {each.name for each in dataclasses.fields(settings)}
    return TypeAdapter(settings).validate_python(
        {name: value for name, value in parameters.items() if name in names}
    )
