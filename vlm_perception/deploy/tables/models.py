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


class PublishedPair(_Row):
    """A dual encoder of the table with a language model that has a vision tower of its own."""

    dual: str
    """Its name in the table."""
    vlm: str
    """`ORG/NAME`."""
    licence: str
    """Of the language model, as its model card names it."""
    tasks: tuple[str, ...]
    parameters: Size
    """Of the language model, its vision tower included."""
    view: Size
    """Pixels on a side of the image that this tower takes."""
    image_tokens: Size
    sources: tuple[str, ...] = Field(min_length=1)


class MissingModel(_Row):
    """A language model of the hub that the table does not have yet for these tasks."""

    vlm: str
    tasks: tuple[str, ...]
    needs: str
    """What the package would have to have."""


class ModelsTable(_Row):
    """The whole table."""

    tasks: dict[str, str]
    """What is to be known about each."""
    models: dict[str, PublishedModel]
    pairs: dict[str, PublishedPair]
    not_yet: tuple[MissingModel, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> ModelsTable:
        rows: list[PublishedModel | PublishedPair | MissingModel]
        rows = [*self.models.values(), *self.pairs.values(), *self.not_yet]
        if foreign := {task for row in rows for task in row.tasks} - set(self.tasks):
            raise ValueError(f"no such tasks: {', '.join(sorted(foreign))}")
        if foreign := {pair.dual for pair in self.pairs.values()} - set(self.models):
            raise ValueError(f"no such models: {', '.join(sorted(foreign))}")
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
    table = models_table()
    if "/" in short or Path(name).expanduser().is_dir():
        return name
    if short in table.models:
        return f"{table.models[short].dual}{at}{revision}"
    if short in table.pairs:
        pair = table.pairs[short]
        raise ExportError(f"{short} is a pair: give `--dual {pair.dual} --vlm {pair.vlm}`")
    known = nearest(short, [*table.models, *table.pairs])
    raise ExportError(
        f"there is no model {short!r}: give {' or '.join(known)} "
        "(`vlm-perception models` shows all), an id of the hub (ORG/NAME) or a folder"
    )


def hub_ids(name: str) -> tuple[str, str | None]:
    """The ids of a dual encoder and, where the name is that of a pair, of its language model.

    Raises:
        ExportError: as `hub_id`.
    """
    pair = models_table().pairs.get(name)
    if pair is None or Path(name).is_dir():
        return hub_id(name), None
    return hub_id(pair.dual), pair.vlm


def nearest(word: str, known: Sequence[str]) -> list[str]:
    """The words that are most like another; all where none is like it."""
    return difflib.get_close_matches(word, known, NEAREST) or list(known)
