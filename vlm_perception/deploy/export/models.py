# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of models of the Hugging Face hub, or of their folders."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.checkpoints.gather import gathered
from vlm_perception.deploy.checkpoints.scenes import Scene
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.place import require_bundle
from vlm_perception.deploy.tables.models import hub_id
from vlm_perception.outputs.apart import keep_apart


def export_models(
    dual: str, vlm: str | None, scene: Scene, out: Path, options: ExportOptions
) -> ModelBundle:
    """Fetch what is missing of the models, then make a bundle as `export_bundle` does.

    Args:
        dual: a folder, a name of `deploy/tables/models.yaml`, or a model of the hub: `ORG/NAME` or
            `ORG/NAME@REVISION`.
        vlm: the language model likewise, or None.
        scene: labels and questions.
        out: the bundle's directory; looked at before anything is fetched.
        options: as for `export_bundle`.

    Raises:
        ExportError: a model is unavailable or cannot become a bundle, or `out` cannot be written.
        OutputError: `out` contains the input, or is inside it, or another export is writing there.
    """
    require_bundle(keep_apart(out, ()))
    with gathered(hub_id(dual), vlm, scene) as checkpoint:
        return export_bundle(checkpoint, out, options)
