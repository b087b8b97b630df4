# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The published models that are known to run, by short names: tables/models.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.tables import read_table

NEAREST = 3
"""Number of names offered in place of an unknown one."""

Size = Annotated[int, Field(ge=1)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TowerSizes(_Row):
    """A transformer: what its config.json says."""

    width: Size
    layers: Size
    heads: Size
    inner: Size
    """Width of the feed-forward layers, `intermediate_size`."""


class VisionSizes(TowerSizes):
    """A vision tower."""

    image: Size
    """Pixels on a side."""
    patch: Size

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2


class TextSizes(TowerSizes):
    """A text tower."""

    vocabulary: Size
    length: Size
    """Tokens of a text, `max_position_embeddings`."""


class PublishedModel(_Row):
    """A dual encoder of the hub."""

    dual: str
    """`ORG/NAME`."""
    licence: str
    """As its model card names it."""
    languages: Literal["English", "many languages"]
    """Of the labels."""
    tasks: tuple[str, ...]
    family: Literal["siglip", "clip"]
    embedding_width: Size
    vision: VisionSizes
    text: TextSizes
    sources: tuple[str, ...] = Field(min_length=1)


class MissingModel(_Row):
    """A language model of the hub that the package cannot run yet."""

    vlm: str
    tasks: tuple[str, ...]
    needs: str
    """What the package would have to have."""


class ModelsTable(_Row):
    """The whole table."""

    tasks: dict[str, str]
    """What is to be known about each."""
    models: dict[str, PublishedModel]
    not_yet: tuple[MissingModel, ...]

    @model_validator(mode="after")
    def _tasks_are_known(self) -> ModelsTable:
        rows: list[PublishedModel | MissingModel] = [*self.models.values(), *self.not_yet]
        if foreign := {task for row in rows for task in row.tasks} - set(self.tasks):
            raise ValueError(f"no such tasks: {', '.join(sorted(foreign))}")
        return self


@cache
def models_table() -> ModelsTable:
    """The table that comes with the package."""
    return ModelsTable.model_validate(read_table("models"))


def hub_id(name: str) -> str:
    """The id of a model that may be given by its name in the table.

    Args:
        name: a name, or what is returned as it is: a folder, an id `ORG/NAME`. A revision may
            follow either, after `@`.

    Raises:
        ExportError: it is neither.
    """
    short, at, revision = name.partition("@")
    models = models_table().models
    if short in models and not Path(name).is_dir():
        return f"{models[short].dual}{at}{revision}"
    if "/" in short or Path(name).expanduser().is_dir():
        return name
    raise ExportError(
        f"there is no model {short!r}: give {' or '.join(nearest(short, list(models)))} "
        "(`vlm-perception models` shows all), an id of the hub (ORG/NAME) or a folder"
    )


def nearest(word: str, known: Sequence[str]) -> list[str]:
    """The words that are most like another; all where none is like it."""
    return difflib.get_close_matches(word, known, NEAREST) or list(known)
