# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Progressive token pruning of a vision tower, with shapes that never change.

As in EViT (https://arxiv.org/abs/2202.07800, section 3): between a layer's attention and its
feed-forward part, the patches that the tower attends to are kept, and the others become one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.common.export_error import ExportError

FUSED_INDEX = -1
"""Place in the grid of the token that the dropped patches were fused into."""


def parse_schedule(text: str, layers: int, tokens: int) -> tuple[KeepStep, ...]:
    """Read a schedule such as `0.7@3,6,9`: the share of patches that stay, at which layers.

    At each of the layers, counted from 0, ceil(share * patches) of the patches that are left stay;
    the token that the others are fused into comes on top.

    Args:
        text: the schedule.
        layers: layers of the vision tower.
        tokens: patches that go into it.

    Raises:
        ExportError: it is no schedule, or none for this tower.
    """
    share_text, _, layer_text = text.partition("@")
    try:
        # A fraction: 0.55 * 100 in floating point has a ceiling of 56.
        share, chosen = Fraction(share_text), [int(part) for part in layer_text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise ExportError(
            f"{text!r} is not a pruning schedule; give the share to keep and the layers, such as "
            "0.7@3,6,9"
        ) from error
    if not 0 < share < 1:
        raise ExportError(f"the schedule {text!r} keeps {share_text}; it must be between 0 and 1")
    if chosen != sorted(set(chosen)):
        raise ExportError(f"the layers of the schedule {text!r} must be in ascending order")
    if chosen[0] < 0 or chosen[-1] >= layers:
        raise ExportError(
            f"the schedule {text!r} names layer {chosen[-1] if chosen[0] >= 0 else chosen[0]}; "
            f"this vision tower has the layers 0 to {layers - 1}"
        )
    steps, patches, before = [], tokens, tokens
    for layer in chosen:
        patches = math.ceil(share * patches)
        if patches + 1 >= before:
            raise ExportError(
                f"the schedule {text!r} saves nothing at layer {layer}, which gets {before} "
                "tokens; keep a smaller share, or prune at fewer layers"
            )
        before = patches + 1
        steps.append(KeepStep(layer=layer, tokens=before))
    return tuple(steps)


def check_layers(steps: Sequence[KeepStep], prunable: int) -> None:
    """Check that nothing is pruned after the layer whose output is read.

    Args:
        steps: the schedule.
        prunable: layers up to that one; the later ones must stay as they are.

    Raises:
        ExportError: a step is at a later layer; the message says which are allowed.
    """
    late = [step.layer for step in steps if step.layer >= prunable]
    if late:
        allowed = (
            f"the layers 0 to {prunable - 1} can be pruned" if prunable else "no layer is left"
        )
        raise ExportError(
            f"tokens cannot be pruned at layer {late[0]}: the features are read from an earlier "
            f"layer; {allowed}"
        )


def prune(
    hidden: Tensor,
    index: Tensor,
    weights: Tensor,
    count: int,
    *,
    leading: int = 0,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Keep the patches of most weight, in the order of the grid, and fuse the others into one.

    The fused token is the sum of the dropped ones, each times its weight (EViT, equation 4). An
    earlier fused token is never kept: it goes into the new one. Everything is TopK and Gather with
    constant sizes, as TensorRT wants it.

    Args:
        hidden: [B, leading + P (+ 1), W]; the patches, possibly followed by a fused token.
        index: [B, P], ascending: the position of each patch in the grid.
        weights: [B, P (+ 1)], how much each token is attended to.
        count: patches to keep, fewer than P.
        leading: tokens before the patches that always stay (a class token).
        order: [B, P], patches in the order in which they are to be kept, in place of the weights'.

    Returns:
        Tokens [B, leading + count + 1, W], the fused one last, and the index [B, count].
    """
    patches = index.shape[1]
    if order is None:
        order = weights[:, :patches].topk(patches).indices
    # Of floats: no engine's TopK refuses them, and they hold any place in a grid exactly.
    places = order[:, :count].to(torch.float32).topk(count, largest=False).values
    kept, rest = places.to(torch.int64), order[:, count:]
    if weights.shape[1] > patches:
        rest = torch.cat([rest, torch.full_like(rest[:, :1], patches)], dim=1)
    fused = take(weights, rest).unsqueeze(1) @ take(hidden, rest + leading)
    tokens = torch.cat([hidden[:, :leading], take(hidden, kept + leading), fused], dim=1)
    return tokens, take(index, kept)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values [B, N, ...] at index [B, M], each row of the batch at its own places: [B, M, ...]."""
    batch, length = values.shape[:2]
    if batch > 1:
        index = index + torch.arange(batch, device=index.device).unsqueeze(1) * length
    taken = values.flatten(0, 1).index_select(0, index.flatten())
    return taken.reshape(batch, -1, *values.shape[2:])


def class_attention(query: Tensor, key: Tensor) -> Tensor:
    """How much the class token attends to each other token, averaged over heads.

    Only its own row of the attention is computed, beside the fused one.

    Args:
        query: [B, heads, 1 + T, head width], scaled; the class token first.
        key: of the same shape.

    Returns:
        [B, T].
    """
    row = (query[:, :, :1] @ key.transpose(-1, -2)).softmax(dim=-1)
    return row.mean(dim=1)[:, 0, 1:]
