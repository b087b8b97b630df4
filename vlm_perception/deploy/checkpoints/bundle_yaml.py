# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""bundle.yaml: describes the bundle that is made from a checkpoint directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlm_perception.bundle.manifest import (
    BoxFormatName,
    Prompt,
    QuestionSpec,
    VocabularySpec,
    describe_errors,
)
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.yaml_files import YamlError, read_as_json
from vlm_perception.modeling.bridge_spec import StoredBridge

SPEC_NAME = "bundle.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Geometry(_Strict):
    """The image that the tower sees: its size in pixels, or the camera's aspect."""

    width: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    aspect: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Geometry:
        if self.aspect is not None:
            try:
                parse_aspect(self.aspect)
            # Of a validator, pydantic takes this kind alone.
            except ExportError as error:
                raise ValueError(str(error)) from error
        if [self.width is None, self.height is None] != [self.aspect is not None] * 2:
            raise ValueError("give width and height, or only aspect")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, where there is no aspect."""
        assert self.width is not None
        assert self.height is not None
        return self.width, self.height


class CaptionSpec(_Strict):
    """The language model's prompt template, and its default instruction."""

    template: Prompt = "{image}{text}"
    answer_separator: str = " "
    prompt: str = "describe the scene"


class BundleSpec(_Strict):
    """The choices that the checkpoints do not hold themselves."""

    name: Annotated[str, Field(min_length=1)]
    vocabulary: VocabularySpec
    licences: Annotated[dict[str, str], Field(min_length=1)]
    model_card: str = "MODEL_CARD.md"
    geometry: Geometry | None = None
    """The tower's own square when absent."""
    vision_tower: Literal["auto", "same", "dual", "vlm", "own"] = "auto"
    """Which vision tower the language model reads: that of `dual` or of `vlm`, exported once for
    both; the `same`, which demands that both are equal; its `own`, beside that of dual/; or `auto`:
    the same where both are equal, else its own."""
    caption: CaptionSpec = CaptionSpec()
    questions: tuple[QuestionSpec, ...] = ()
    locate: BoxFormatName | None = None
    """How the language model writes boxes; that of its family when absent."""
    bridge: StoredBridge | None = None
    """What gives the decoder fewer tokens than the tower has; LLaVA's own projector when absent."""


def parse_aspect(text: str) -> tuple[int, int]:
    """Width and height of an aspect written as `16:9`.

    Raises:
        ExportError: it is written otherwise.
    """
    found = re.fullmatch(r"([1-9]\d{0,4}):([1-9]\d{0,4})", text)
    if found is None:
        raise ExportError(f"the aspect {text!r} is not width:height in whole numbers, such as 16:9")
    return int(found[1]), int(found[2])


def load_spec(checkpoint: Path) -> BundleSpec:
    """Read bundle.yaml of a checkpoint directory.

    Raises:
        ExportError: it is missing or has faults; the message lists them.
    """
    path = checkpoint / SPEC_NAME
    if not checkpoint.is_dir():
        raise ExportError(f"there is no checkpoint directory {checkpoint}")
    try:
        return BundleSpec.model_validate_json(read_as_json(path))
    except FileNotFoundError as error:
        if (checkpoint / "config.json").is_file():
            raise ExportError(
                f"{checkpoint} is a checkpoint itself; put it into a directory of its own as dual/ "
                f"(a language model as vlm/), next to a {SPEC_NAME} with name, vocabulary and "
                "licences"
            ) from error
        raise ExportError(
            f"{checkpoint} contains no {SPEC_NAME}; create one with name, vocabulary and licences"
        ) from error
    except ValidationError as error:
        raise ExportError(f"{path}: {describe_errors(error)}") from error
    except (OSError, YamlError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
