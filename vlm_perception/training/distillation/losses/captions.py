# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of images and their captions.

Of each pair by a sigmoid (Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023) or of
all pairs of a batch by a softmax (Radford et al., Learning Transferable Visual Models From Natural
Language Supervision, 2021). A text matches each image of a batch that has it among its captions: a
set has many such texts, and none is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def matches(own: Sequence[Sequence[str]], texts: Sequence[str]) -> Tensor:
    """Which texts are a caption of which images, bool [images, texts].

    Args:
        own: all captions of each image.
        texts: of the batch.
    """
    return torch.tensor([[text in known for text in texts] for known in map(set, own)])


def sigmoid_losses(logits: Tensor, same: Tensor) -> dict[str, Tensor]:
    """SigLIP's loss, apart for pairs that match and for the others.

    Args:
        logits: [images, captions].
        same: bool [images, captions], which pairs match.
    """
    each = -F.logsigmoid(torch.where(same, logits, -logits))
    count = len(logits)
    return {"matching": each[same].sum() / count, "others": each[~same].sum() / count}


def softmax_losses(logits: Tensor, same: Tensor) -> dict[str, Tensor]:
    """CLIP's loss, apart for both directions; several matches share the probability.

    Args:
        logits: [images, captions].
        same: bool [images, captions], which pairs match; each image and caption has one.
    """
    of_images, of_texts = (each.float() / each.sum(1, keepdim=True) for each in (same, same.T))
    return {
        "image_to_text": F.cross_entropy(logits, of_images),
        "text_to_image": F.cross_entropy(logits.T, of_texts),
    }


def contrastive(logits: Tensor, same: Tensor, softmax: bool) -> Tensor:
    """The whole loss of a family, in one number.

    Images without captions are left out: nobody knows which texts are true of them.
    """
    images, texts = same.any(dim=1), same.any(dim=0)
    if not images.any():
        return logits.sum() * 0
    logits, same = logits[images][:, texts], same[images][:, texts]
    if softmax:
        return torch.stack([*softmax_losses(logits, same).values()]).mean()
    return torch.stack([*sigmoid_losses(logits, same).values()]).sum()
