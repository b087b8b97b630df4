# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint directory made of a dual encoder and a language model, by hub ids or folders."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from vlm_perception.bundle.manifest import HubSource, describe_errors
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import SPEC_NAME, BundleSpec
from vlm_perception.deploy.checkpoints.hub import (
    FoundModel,
    fetch,
    find,
    require_room,
)
from vlm_perception.deploy.checkpoints.model_card import ModelCard, read_card
from vlm_perception.deploy.checkpoints.scenes import Scene
from vlm_perception.deploy.checkpoints.unsupported import require_supported

SOURCES_NAME = "sources.json"
"""Beside bundle.yaml: which models of the hub `dual/` and `vlm/` are."""
_SOURCES = TypeAdapter(dict[str, HubSource])


@contextmanager
def gathered(dual: str, vlm: str | None, scene: Scene) -> Iterator[Path]:
    """A directory with `dual/`, perhaps `vlm/`, and bundle.yaml, which is there for a while.

    It holds links only: into the cache of the hub's client, or to the given folders.

    Args:
        dual: a folder, or a model of the hub: `ORG/NAME` or `ORG/NAME@REVISION`.
        vlm: the language model likewise.
        scene: labels and questions.

    Raises:
        ExportError: a model is unavailable, or not of the expected kind.
    """
    wanted = {"dual": dual, **({"vlm": vlm} if vlm is not None else {})}
    models = {part: _folder_or_model(text, part) for part, text in wanted.items()}
    name = "+".join(_name(model) for model in models.values())
    found = {part: model for part, model in models.items() if isinstance(model, FoundModel)}
    require_room(list(found.values()))
    sources = {part: fetch(model) for part, model in found.items()}
    cards = {part: read_card(_folder(model)) for part, model in models.items()}
    with tempfile.TemporaryDirectory(prefix="vlm_perception-") as scratch:
        checkpoint = Path(scratch) / name
        checkpoint.mkdir()
        for part, model in models.items():
            _link(checkpoint / part, model)
        spec = BundleSpec(
            name=name,
            vocabulary=scene.vocabulary,
            questions=scene.questions if vlm is not None else (),
            licences={part: card.licence for part, card in cards.items()},
        )
        _write(
            checkpoint / SPEC_NAME,
            yaml.safe_dump(json.loads(spec.model_dump_json(exclude_unset=True))),
        )
        _write(checkpoint / spec.model_card, _card(name, models, cards))
        _write(checkpoint / SOURCES_NAME, _SOURCES.dump_json(sources).decode())
        yield checkpoint


def dual_folder(text: str) -> Path:
    """The folder of a dual encoder; one of the hub is fetched.

    Args:
        text: a folder, or one that has the encoder in `dual/`, or a model of the hub: `ORG/NAME` or
            `ORG/NAME@REVISION`.

    Raises:
        ExportError: it is unavailable, or no dual encoder.
    """
    model = _folder_or_model(text, "dual")
    if isinstance(model, Path):
        return model / "dual" if (model / "dual").is_dir() else model
    require_room([model])
    fetch(model)
    return model.folder


def read_sources(checkpoint: Path) -> dict[str, HubSource]:
    """Which models of the hub the parts of a checkpoint directory are; empty if unknown.

    Raises:
        ExportError: the file that says so is damaged.
    """
    path = checkpoint / SOURCES_NAME
    if not path.is_file():
        return {}
    try:
        return _SOURCES.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ExportError(
            f"{path} does not say which models of the hub these are ({describe_errors(error)}); "
            "delete it: it is only written into the manifest"
        ) from error


def _folder_or_model(text: str, part: str) -> Path | FoundModel:
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return find(text, _check_kind(part))


def _check_kind(part: str) -> Callable[[str, Mapping[str, Any]], None]:
    """What refuses a model that is none of the kind that `--dual` or `--vlm` names."""
    other = "--vlm" if part == "dual" else "--dual"

    def check(model: str, config: Mapping[str, Any]) -> None:
        require_supported(model, part, str(config.get("model_type")), f"give it as {other}")

    return check


def _name(model: Path | FoundModel) -> str:
    return model.name if isinstance(model, Path) else model.id.split("/")[-1]


def _folder(model: Path | FoundModel) -> Path:
    return model if isinstance(model, Path) else model.folder


def _link(place: Path, model: Path | FoundModel) -> None:
    if isinstance(model, Path):
        place.symlink_to(model)
        return
    # One by one: other programs may have put more of the model into the cache.
    place.mkdir()
    for file in model.files:
        (place / file).symlink_to(model.folder / file)


def _card(
    name: str, models: Mapping[str, Path | FoundModel], cards: Mapping[str, ModelCard]
) -> str:
    """The model cards of the parts, one after the other."""
    text = f"# {name}\n"
    for part, model in models.items():
        origin = (
            f"the folder {model.name}"
            if isinstance(model, Path)
            else f"{model.id}, commit {model.revision}"
        )
        text += f"\n{part}/: {origin}; licence: {cards[part].licence}\n"
    return "\n".join([text, *(card.text for card in cards.values())])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
