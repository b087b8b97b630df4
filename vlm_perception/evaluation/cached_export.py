# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles that an evaluation makes for itself, made again only when they would come out other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from vlm_perception import bundle, deploy, modeling
from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.bundle.files import file_sha256
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions

LIBRARIES = ("onnx", "onnxruntime", "torch", "transformers")


def exported(checkpoint: Path, path: Path, options: ExportOptions) -> ModelBundle:
    """Export a checkpoint, or take the existing bundle if it was made the same way.

    Raises:
        ExportError: the export failed.
    """
    mark = path.with_name(f"{path.name}.made_of")
    key = hashlib.sha256(f"{export_state()} {_files_state(checkpoint)} {options}".encode())
    if mark.is_file() and mark.read_text(encoding="ascii") == key.hexdigest():
        try:
            return ModelBundle.load(path)
        except BundleError:
            mark.unlink()
    made = export_bundle(checkpoint, path, options)
    mark.write_text(key.hexdigest(), encoding="ascii")
    return made


def export_state(more: Iterable[Path] = ()) -> str:
    """Digest of the sources and libraries that bundles are made with, and of more sources."""
    rooms = [Path(str(room.__file__)).parent for room in (bundle, deploy, modeling)]
    sources = [*(path for room in rooms for path in room.rglob("*.py")), *more]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources)))
    digest.update(json.dumps({name: version(name) for name in LIBRARIES}).encode())
    return digest.hexdigest()[:16]


def _files_state(checkpoint: Path) -> str:
    files = sorted(
        path for depth in ("*", "*/*") for path in checkpoint.glob(depth) if path.is_file()
    )
    return " ".join(f"{path.relative_to(checkpoint)} {file_sha256(path)}" for path in files)
