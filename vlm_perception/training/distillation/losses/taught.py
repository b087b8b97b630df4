# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Losses on what a teacher said of a view.

Its outputs are stored (Vasu et al., MobileCLIP, https://arxiv.org/abs/2311.17049). `affinity` is
that of TinyCLIP (Wu et al., https://arxiv.org/abs/2309.12314, section 3.1): the student's
similarities of images and texts follow the teacher's, in both directions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_perception.modeling.token_pruning import take
from vlm_perception.training.distillation.losses.batch import Outputs, Part, TaughtTargets


def pooled(outputs: Outputs, taught: TaughtTargets, to_teacher: nn.Module) -> Part:
    """Direction of the image's embedding, through a linear map into the teacher's space."""
    return Part.mean(1 - F.cosine_similarity(to_teacher(outputs.pooled), taught.pooled, dim=-1))


def patches(outputs: Outputs, taught: TaughtTargets, to_teacher: nn.Module) -> Part:
    """The same of each patch that is left."""
    assert taught.patches is not None
    wanted = take(taught.patches, outputs.index)
    cosine = F.cosine_similarity(to_teacher(outputs.patches), wanted, dim=-1)
    return Part.mean(1 - cosine.mean(dim=1))


def labels(outputs: Outputs, taught: TaughtTargets) -> Part:
    """Probabilities of the labels.

    Of labels that compete, those beyond the stored ones share what is left of the probability, and
    have no more than the least of these; others count as absent.
    """
    logits = outputs.pooled @ outputs.texts["labels"].T * outputs.scale
    count = logits.shape[1]
    known = taught.label_probabilities
    if not outputs.softmax:
        wanted = torch.zeros_like(logits).scatter(1, taught.label_ids, known)
        each = F.binary_cross_entropy_with_logits(logits + outputs.bias, wanted, reduction="none")
        return Part.mean(each.mean(dim=1))
    others = max(count - known.shape[1], 1)
    left = (1 - known.sum(dim=1, keepdim=True)).clamp(min=0) / others
    left = torch.minimum(left, known.amin(dim=1, keepdim=True))
    wanted = left.expand(-1, count).scatter(1, taught.label_ids, known)
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    return Part.mean(F.cross_entropy(logits, wanted, reduction="none"))


def affinity(
    images: Tensor, texts: Tensor, taught_images: Tensor, taught_texts: Tensor, scale: float
) -> Tensor:
    """How the similarities of all images and labels differ from the teacher's.

    Args:
        images: [images, D] of the student, of length 1, of all processes.
        texts: [labels, D] of the student.
        taught_images: [images, T] of the teacher.
        taught_texts: [labels, T] of the teacher.
        scale: that the teacher's similarities are multiplied by, in both.
    """
    mine, theirs = images @ texts.T * scale, taught_images @ taught_texts.T * scale
    across = F.cross_entropy(mine, theirs.softmax(dim=1))
    down = F.cross_entropy(mine.T, theirs.T.softmax(dim=1))
    return (across + down) / 2
