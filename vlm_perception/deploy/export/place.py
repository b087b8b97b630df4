# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that a bundle is written to."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.bundle.bundle import MANIFEST_NAME
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.engines.tensorrt.plan_store import FOLDER as PLANS
from vlm_perception.outputs.work import is_plain


def require_bundle(out: Path) -> None:
    """Refuse a place that contains more than a bundle that may be replaced.

    Raises:
        ExportError: there are files that no export has put there.
    """
    if not out.exists():
        return
    manifest = out / MANIFEST_NAME
    if not manifest.is_file():
        raise ExportError(
            f"{out} exists and is not a bundle, so it is not overwritten: choose another --out"
        )
    try:
        listed = {MANIFEST_NAME, *read_yaml(manifest)["files"]}
    except (OSError, YamlError, TypeError, KeyError) as error:
        raise ExportError(
            f"{manifest} does not list which files in {out} belong to a bundle; move that folder "
            "away or choose another --out"
        ) from error
    files = (path.relative_to(out) for path in out.rglob("*") if not is_plain(path))
    foreign = [each for each in files if str(each) not in listed and each.parts[0] != PLANS]
    if foreign:
        raise ExportError(
            f"{out / foreign[0]} is not part of the bundle and would be lost; move it away or "
            "choose another --out"
        )
