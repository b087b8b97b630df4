# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far two scene logs may differ and still count as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.replay.recordings.errors import ReplayError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[float, Field(ge=0.0)]


class Tolerances(BaseModel):
    """The largest differences that are accepted; shares are those of all that could differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: Share = 0.0
    """Frames that only one of the logs holds."""
    tags: Share = 0.02
    """Tags that only one of them gives, of all tags that either gives."""
    scores: Amount = 0.05
    """95th percentile of the difference of a tag's probability where both give it."""
    attributes: Share = 0.02
    """Answers with another value; for each question by itself."""
    captions: Share = 0.05
    """Frames with another caption."""
    keyframes: Share = 0.1
    """Key frames without a partner in the other log."""
    keyframe_s: Amount = 0.2
    """Seconds that a key frame's partner may be away."""
    status: Share = 0.02
    """Frames with another status."""
    latency_ms: Amount = 5.0
    """Difference of the median of each link of the latency chain."""


def load_tolerances(file: Path) -> Tolerances:
    """Read tolerances from a YAML file; those that it does not name keep their defaults.

    Raises:
        ReplayError: it cannot be read, or holds something else.
    """
    try:
        content = read_yaml(file) or {}
        return Tolerances.model_validate(content)
    except ValidationError as error:
        raise ReplayError(f"{file} is not a tolerance file: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise ReplayError(f"{file} cannot be read: {error}") from error
