# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The models that a recipe names, and whether they are still those that a stage was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_perception.bundle.bundle import BundleError, find_bundle, read_manifest
from vlm_perception.common.export_error import ExportError
from vlm_perception.curation.recipe import path_or_name
from vlm_perception.deploy.checkpoints.files import checkpoint_digest

MODELS = "models"
"""In the manifest of a stage: the digests of its models, as the recipe names them."""
_BUNDLE, _CHECKPOINT = "bundle", "checkpoint"


def model_digests(folder: Path, part: Any) -> dict[str, str]:
    """The digests of the models in a part of a recipe; of bundles, by their manifests alone.

    Args:
        folder: that of the recipe.
        part: as JSON has it.

    Returns:
        By kind and what the recipe calls them. Those that are not here are left out, and so are
        models of the hub, whose revision names what they are.
    """
    found = {}
    for kind, name in sorted(set(_named(part))):
        place = path_or_name(folder, name)
        with suppress(BundleError, ExportError, OSError):
            if kind == _BUNDLE:
                found[f"{kind} {name}"] = read_manifest(find_bundle(place)).digest
            elif Path(place).is_dir():
                found[f"{kind} {name}"] = _digest(Path(place), _state(Path(place)))
    return found


def changed_models(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A clause for each model that is another one now; one that is not here has not changed."""
    return [
        f"the {name} is another one now"
        for name, digest in new.items()
        if old.get(name, digest) != digest
    ]


@lru_cache(16)
def _digest(checkpoint: Path, _: object) -> str:
    """Reads some gigabytes: once for the same state of the files."""
    return checkpoint_digest(checkpoint)


def _state(checkpoint: Path) -> tuple[tuple[str, int, int], ...]:
    files = [(file.name, file.stat()) for file in sorted(checkpoint.iterdir())]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def _named(part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        if part.get("kind") in (_BUNDLE, _CHECKPOINT):
            yield part["kind"], part["path"]
        for key in ("key_frames", "tagger"):
            if part.get(key):
                yield _BUNDLE, part[key]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _named(each)
