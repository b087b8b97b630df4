# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The bundles that a recipe names, and whether they are still those that a stage was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_perception.bundle.bundle import BundleError, find_bundle, read_manifest
from vlm_perception.curation.recipe import path_or_name

BUNDLES = "bundles"
"""In the manifest of a stage: the digests of its bundles, as the recipe names them."""


def bundle_digests(folder: Path, part: Any) -> dict[str, str]:
    """The digests of the bundles in a part of a recipe, by their manifests alone.

    Args:
        folder: that of the recipe.
        part: as JSON has it.

    Returns:
        By what the recipe calls them; those that are not here are left out.
    """
    found = {}
    for name in sorted(set(_named(part))):
        with suppress(BundleError):
            found[name] = read_manifest(find_bundle(path_or_name(folder, name))).digest
    return found


def changed_bundles(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A clause for each bundle that is another one now; one that is not here has not changed."""
    return [
        f"the bundle {name} is another one now"
        for name, digest in new.items()
        if old.get(name, digest) != digest
    ]


def _named(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if part.get("kind") == "bundle":
            yield part["path"]
        if part.get("key_frames"):
            yield part["key_frames"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _named(each)
