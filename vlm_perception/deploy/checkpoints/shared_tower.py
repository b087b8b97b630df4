# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""One vision tower for the dual encoder and the language model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from vlm_perception.common.export_error import ExportError

# Modules and configurations of transformers carry no types.
Model = Any


def share_tower(dual: Model, tower: Model, vision_tower: str, settings: Sequence[str]) -> None:
    """Make the dual encoder's tower the one that is exported.

    Args:
        dual: the dual encoder, whose tower is changed where `vlm` is chosen.
        tower: the language model's; it may lack the pooling head and the last layers, which the
            language model does not read.
        vision_tower: `same` or `vlm`: whose weights are meant.
        settings: what the tower computes by, beside its weights: names in its configuration.

    Raises:
        ExportError: the towers differ, and bundle.yaml does not choose between them, or no choice
            is valid.
    """
    ours = dual.vision_model.state_dict()
    weights = tower.state_dict()
    if reason := _built_otherwise(dual, tower, settings):
        raise ExportError(
            f"{reason}; set vision_tower: own in bundle.yaml to keep both, or dual to drop vlm/'s, "
            "if the language model can read the other's features"
        )
    lacking = sorted(ours.keys() - weights.keys())
    if vision_tower == "vlm":
        if lacking:
            raise ExportError(
                f"the tower of vlm/ lacks {_parts_of(lacking)}, which tags and regions are "
                "computed from; those of dual/ belong to other weights, so vision_tower: vlm would "
                "combine two models that were never trained together. Set vision_tower: same if "
                "the other weights are equal, own to keep both towers, or dual if the language "
                "model can read the features of dual/'s tower"
            )
        dual.vision_model.load_state_dict(weights)
        return
    if reason := _weighs_otherwise(dual, tower):
        others = "dual" if lacking else "dual or vlm"
        raise ExportError(
            f"{reason}; set vision_tower: own in bundle.yaml to keep both, or {others} to choose"
        )


def difference(dual: Model, tower: Model, settings: Sequence[str]) -> str:
    """Why a language model's tower and that of a dual encoder are not one; empty: they are.

    The arguments are those of `share_tower`.
    """
    return _built_otherwise(dual, tower, settings) or _weighs_otherwise(dual, tower)


def _built_otherwise(dual: Model, tower: Model, settings: Sequence[str]) -> str:
    ours, theirs = dual.vision_model.state_dict(), tower.state_dict()
    foreign = sorted(theirs.keys() - ours.keys())
    misfits = [k for k in theirs.keys() & ours.keys() if theirs[k].shape != ours[k].shape]
    config = dual.config.vision_config
    built = [name for name in settings if getattr(tower.config, name) != getattr(config, name)]
    if not (foreign or misfits or built):
        return ""
    return (
        "the vision towers of dual/ and vlm/ have different architectures, for example "
        f"{(foreign + sorted(misfits) + built)[0]}"
    )


def _weighs_otherwise(dual: Model, tower: Model) -> str:
    ours, theirs = dual.vision_model.state_dict(), tower.state_dict()
    stored = {_stored_type(ours.values()), _stored_type(theirs.values())}
    for key, value in theirs.items():
        if not _equal_as_stored(value, ours[key], stored):
            return (
                "the vision towers of dual/ and vlm/ differ, by up to "
                f"{float((value - ours[key]).abs().max()):.3g} in {key}"
            )
    return ""


def _parts_of(names: Sequence[str]) -> str:
    """The parts that parameters belong to: `encoder.layers.26 and head`."""
    parts = (re.match(r"encoder\.layers\.\d+|[^.]+", name) for name in names)
    return " and ".join(dict.fromkeys(part[0] for part in parts if part is not None))


def _stored_type(weights: Iterable[torch.Tensor]) -> torch.dtype:
    """The coarsest type that holds a tower's weights without loss."""
    values = tuple(weights)
    for coarse in (torch.bfloat16, torch.float16):
        if all(torch.equal(value.to(coarse).float(), value) for value in values):
            return coarse
    return torch.float32


def _equal_as_stored(one: torch.Tensor, other: torch.Tensor, stored: set[torch.dtype]) -> bool:
    """Whether two weights may be one, rounded to the types in which both towers were stored."""
    if stored == {torch.bfloat16, torch.float16}:
        # Rounded to FP16 and then to BF16, some come out as the neighbour of what they are in BF16;
        # the smallest numbers of FP16 are 2^-24 apart.
        return torch.allclose(one, other, rtol=torch.finfo(torch.bfloat16).eps, atol=2**-24)
    # FP16 at the finest, as the bundle stores them.
    coarser = torch.bfloat16 if torch.bfloat16 in stored else torch.float16
    return torch.equal(one.to(coarser), other.to(coarser))


@torch.no_grad()
def check_positions(tower: Model) -> None:
    """Refuse a tower of Idefics3 that does not give each patch the position of its place.

    It computes the places in FP32; in some grids (19, 25, 29 patches along a side and more)
    rounding then gives two neighbours the same position.

    Raises:
        ExportError: it does so in this tower's own square.
    """
    embeddings = tower.embeddings
    side, patch = embeddings.num_patches_per_side, embeddings.patch_size
    blank = torch.zeros(1, 3, side * patch, side * patch)
    placed = embeddings(blank, torch.ones(1, side, side, dtype=torch.bool))[0]
    if not torch.equal(
        placed, embeddings.patch_embedding.bias + embeddings.position_embedding.weight
    ):
        raise ExportError(
            f"the tower of vlm/ has {side}x{side} patches, some of which get the position "
            "embedding of a neighbour in transformers; such a tower is not supported"
        )
