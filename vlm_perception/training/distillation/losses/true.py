# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Losses on the road world's truth, which no recording has: names, patches, distances.

Labels of whole images alone teach a small ViT slowly; the content of each patch, read through the
value path, is dense supervision in the very space of the text (the value path is the one that
MaskCLIP reads, Zhou et al., Extract Free Dense Labels from CLIP, 2022).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.modeling.token_pruning import take
from vlm_perception.training.distillation.losses.batch import Outputs, Part, TrueTargets
from vlm_perception.training.roadworld_words import ATTRIBUTE_PHRASES

POSITIVE_PERCENT = 3
"""A patch counts as showing a label from this coverage on; below it, down to 1, as unknown."""


def true_targets(
    labels: NDArray[np.bool_],
    attributes: NDArray[np.uint8],
    coverage: NDArray[np.uint8],
    metres: NDArray[np.float32],
) -> TrueTargets:
    """What is known of rendered images, as the losses take it.

    Args:
        labels: [B, labels].
        attributes: [B, questions], the number of each answer.
        coverage: [B, places, objects], percent.
        metres: [B, places] to the nearest object, NaN where there is none.
    """
    share = torch.from_numpy(coverage).to(torch.int16)
    names = list(QUESTIONS)
    phrases = [
        attributes[:, names.index(name)] == QUESTIONS[name][1].index(choice)
        for name, choice in ATTRIBUTE_PHRASES
    ]
    return TrueTargets(
        torch.from_numpy(np.concatenate([labels, np.stack(phrases, axis=1)], axis=1)).float(),
        (share >= POSITIVE_PERCENT).float() - ((share > 0) & (share < POSITIVE_PERCENT)).float(),
        (torch.from_numpy(metres) + 0.5).log(),
    )


def true_labels(outputs: Outputs, true: TrueTargets) -> Part:
    """Which names hold, a probability each."""
    logits = outputs.pooled @ outputs.texts["world"].T * outputs.scale + outputs.bias
    each = F.binary_cross_entropy_with_logits(logits, true.names, reduction="none")
    return Part.mean(each.mean(dim=1))


def true_patches(outputs: Outputs, true: TrueTargets) -> Part:
    """Which objects each patch shows."""
    objects = outputs.texts["world"][: true.patches.shape[2]]
    logits = outputs.patches @ objects.T * outputs.scale + outputs.bias
    shown = take(true.patches, outputs.index)
    sure = shown >= 0
    each = F.binary_cross_entropy_with_logits(logits, shown.clamp(min=0), reduction="none")
    return Part((each * sure).sum(), sure.sum().float())


def true_distance(outputs: Outputs, true: TrueTargets, head: nn.Module) -> Part:
    """How far the nearest object of each patch is; the head is dropped after training."""
    found = head(outputs.hidden)[..., 0].float()
    wanted = take(true.distance, outputs.index)
    here: Tensor = ~wanted.isnan()
    each = F.smooth_l1_loss(found[here], wanted[here], reduction="sum")
    return Part(each, here.sum().float().clamp(min=torch.finfo(torch.float32).tiny))
