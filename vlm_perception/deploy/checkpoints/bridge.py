# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bridge of this package in a checkpoint: settings in bundle.yaml, weights beside those of vlm/.

In the model it takes the place of LLaVA's projector, so that transformers' own code runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.bridge_spec import StoredBridge
from vlm_perception.modeling.bridges import build_bridge

# Modules of transformers carry no types.
Model = Any
BRIDGE_WEIGHTS = "bridge.safetensors"
"""In vlm/, of the kinds that do without the weights of LLaVA's projector."""


def install_bridge(
    spec: StoredBridge | None, vlm: Model | None, tower: Model, directory: Path, *, own: bool
) -> None:
    """Put a bridge in the place of a language model's projector.

    Args:
        spec: what bundle.yaml says of it; None: the projector stays.
        vlm: the language model.
        tower: the vision tower that it reads.
        directory: of the language model.
        own: whether the language model reads a vision tower of its own.

    Raises:
        ExportError: there is no LLaVA that reads `tower`, or the bridge's weights are missing,
            damaged or of another shape.
    """
    if spec is None:
        return
    if own:
        raise ExportError(
            "bundle.yaml names a bridge, which reads the tower of dual/, but the language model "
            "has a vision tower of its own; set vision_tower: same or dual"
        )
    if vlm is None or vlm.config.model_type != "llava":
        found = "no vlm/" if vlm is None else f"a {vlm.config.model_type} model"
        raise ExportError(
            f"bundle.yaml names a bridge, which replaces the projector of a LLaVA; here is "
            f"{found}. Leave `bridge` out"
        )
    projector, width = vlm.model.multi_modal_projector, vlm.config.text_config.hidden_size
    bridge = build_bridge(spec, tower=tower, projector=projector, read=width, grid=spec.grid)
    if spec.has_weights:
        file = directory / BRIDGE_WEIGHTS
        try:
            weights = load_file(file)
            bridge.load_state_dict({name: weight.float() for name, weight in weights.items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ExportError(f"{file} cannot be loaded: {error}") from error
    vlm.model.multi_modal_projector = bridge.eval().requires_grad_(False)


def save_bridge(bridge: nn.Module, directory: Path) -> None:
    """Write a bridge's own weights into vlm/, in half precision."""
    weights = {n: w.detach().cpu().half().contiguous() for n, w in bridge.state_dict().items()}
    save_file(weights, directory / BRIDGE_WEIGHTS)
