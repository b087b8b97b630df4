# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""One vision tower for the dual encoder and the language model."""

from __future__ import annotations

from typing import Any

import torch

from vlm_perception.deploy.errors import ExportError
from vlm_perception.deploy.families import LanguageFamily

# Modules and configurations of transformers carry no types.
Model = Any

# What a tower computes beside its weights; the shapes of those say the rest.
_BUILD = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")


def share_tower(
    dual: Model, kind: str, vlm: Model, family: LanguageFamily, vision_tower: str
) -> None:
    """Make the dual encoder's tower the one that is exported.

    The language model's may lack the pooling head and the last layers, which it does not read.

    Args:
        dual: the dual encoder, whose tower is changed where `vlm` is chosen.
        kind: its layout, `clip` or `siglip`.
        vlm: the language model.
        family: its family.
        vision_tower: `same`, `dual` or `vlm`: whose weights are meant.

    Raises:
        ExportError: the towers differ, and nobody has chosen between them or nobody could.
    """
    theirs, name = vlm.config.vision_config, vlm.config.vision_config.model_type
    if family.kinds.get(name) != kind:
        raise ExportError(
            f"vlm/ has a {name} tower and dual/ a {kind} tower; vlm/ must have the tower of dual/"
        )
    tower = getattr(vlm.model, family.tower)
    _check_positions(tower.embeddings)
    if vision_tower == "dual":
        return
    ours = dual.vision_model.state_dict()
    weights = tower.state_dict()
    foreign = sorted(weights.keys() - ours.keys())
    misfits = [k for k in weights.keys() & ours.keys() if weights[k].shape != ours[k].shape]
    config = dual.config.vision_config
    built = [name for name in _BUILD if getattr(theirs, name) != getattr(config, name)]
    if foreign or misfits or built:
        raise ExportError(
            "the vision towers of dual/ and vlm/ are built differently, as in "
            f"{(foreign + sorted(misfits) + built)[0]}; set vision_tower: dual in bundle.yaml to "
            "drop vlm/'s, if the language model can read the other's features"
        )
    if vision_tower == "vlm":
        dual.vision_model.load_state_dict(weights, strict=False)
        return
    for key, value in weights.items():
        if not torch.equal(value, ours[key]):
            raise ExportError(
                "the vision towers of dual/ and vlm/ differ, by up to "
                f"{float((value - ours[key]).abs().max()):.3g} in {key}; choose one with "
                "vision_tower: dual or vision_tower: vlm in bundle.yaml"
            )


@torch.no_grad()
def _check_positions(embeddings: Model) -> None:
    """Refuse a tower that does not give each patch the position of its place.

    Idefics3 computes the places in FP32; in some grids (19, 25, 29 patches along a side and more)
    rounding then gives two neighbours the same position.
    """
    if hasattr(embeddings, "interpolate_pos_encoding"):
        return
    side, patch = embeddings.num_patches_per_side, embeddings.patch_size
    blank = torch.zeros(1, 3, side * patch, side * patch)
    placed = embeddings(blank, torch.ones(1, side, side, dtype=torch.bool))[0]
    if not torch.equal(
        placed, embeddings.patch_embedding.bias + embeddings.position_embedding.weight
    ):
        raise ExportError(
            f"the tower of vlm/ has {side}x{side} patches, of which transformers gives some the "
            "position of their neighbour; such a tower is not supported"
        )
