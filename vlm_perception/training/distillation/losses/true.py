# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Losses on the road world's truth, which no recording has: names, patches, distances.

Labels of whole images alone teach a small ViT slowly; the content of each patch, read through the
value path, is dense supervision in the very space of the text (the value path is the one that
MaskCLIP reads, Zhou et al., Extract Free Dense Labels from CLIP, 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_perception.modeling.token_pruning import take
from vlm_perception.training.distillation.losses.batch import Outputs, Part, TrueTargets


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
