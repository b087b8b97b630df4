# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The losses of soft prompts: classification, contrast of classes, and gradients that agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.modeling.self_tpt import LearnedHead, contrast, prompted
from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.perception.vision.prompt_sequences import END, PromptSequences
from vlm_perception.training.adaptation.features import Features
from vlm_perception.training.adaptation.settings import LearningSettings

HALVINGS, FARTHEST = 40, 100.0
"""Of the search for a bias."""


@dataclass(frozen=True)
class Texts:
    """The classes of the source as the text tower reads them."""

    sequences: PromptSequences
    written: Tensor
    """Of hand-written prompts, [classes, D]."""


class PromptObjective(nn.Module):
    """Soft prompts and the projection h, with their losses (Self-TPT).

    The loss `matching` is one minus the cosine of the moving averages of the gradients that the
    other two have in the prompts; the averages of the past are constants, and the gradient flows
    through the present step (equations 7 and 8).
    """

    gradient_of_classes: Tensor
    gradient_of_contrast: Tensor

    def __init__(
        self,
        context: Tensor,
        head: LearnedHead,
        tower: TextTower,
        texts: Texts,
        features: Features,
        scale: float,
        settings: LearningSettings,
    ) -> None:
        """Take what the losses are of.

        Args:
            context: the prompts to begin with, [n, W].
            head: the projection h.
            tower: frozen.
            texts: the classes.
            features: the images.
            scale: of a cosine, as the checkpoint was trained with.
            settings: weights and temperature.
        """
        super().__init__()
        self.context, self.head = nn.Parameter(context), head
        self.register_buffer("gradient_of_classes", torch.zeros_like(context))
        self.register_buffer("gradient_of_contrast", torch.zeros_like(context))
        # In a tuple, so that the frozen tower is no part of the state.
        self._frozen = (tower,)
        self._texts, self._features = texts, features
        self._scale, self._softmax = scale, tower.score == "softmax"
        self._settings, self._temperature = settings, torch.tensor(settings.temperature)

    def forward(self, images: NDArray[np.intp], classes: NDArray[np.intp]) -> dict[str, Tensor]:
        """The losses of a step, each a scalar.

        Args:
            images: places of the images.
            classes: places of the classes that are compared.
        """
        chosen = torch.from_numpy(classes)
        texts = self.texts(classes)
        cosines = torch.from_numpy(self._features.pooled[images]) @ texts[END].T
        targets = torch.from_numpy(self._features.targets[np.ix_(images, classes)])
        losses = {
            "classes": self._classify(cosines * self._scale, targets),
            "contrast": contrast(
                texts, self._texts.written[chosen], self.head.weights, self._temperature
            ),
        }
        return losses | ({"matching": self._match(losses)} if self._settings.matching else {})

    def texts(self, classes: NDArray[np.intp]) -> Tensor:
        """Features of the views of some classes, [3, classes, D]."""
        laid = self._texts.sequences.of(classes)
        ids, placement = torch.from_numpy(laid.input_ids), torch.from_numpy(laid.placement)
        return prompted(self._frozen[0], self.context, ids, placement)

    def _classify(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self._softmax:
            shown = targets.any(1)
            wanted = targets[shown] / targets[shown].sum(1, keepdim=True)
            return F.cross_entropy(scores[shown], wanted)
        return balanced_loss(scores + fitted_bias(scores.detach(), targets), targets)

    def _match(self, losses: dict[str, Tensor]) -> Tensor:
        parts, decay = [], self._settings.decay
        for name, past in (
            ("classes", self.gradient_of_classes),
            ("contrast", self.gradient_of_contrast),
        ):
            (now,) = torch.autograd.grad(losses[name], self.context, create_graph=True)
            mean = decay * past + (1.0 - decay) * now
            past.copy_(mean.detach())
            parts.append(mean.flatten())
        of_classes, of_contrast = parts
        return 1.0 - F.cosine_similarity(of_classes, of_contrast, dim=0)


def balanced_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy with positives and negatives averaged apart, [N, classes]."""
    return sum(
        (F.softplus(sign * logits[where]).mean() for sign, where in _sides(targets)),
        torch.zeros(()),
    )


def fitted_bias(scores: Tensor, targets: Tensor) -> float:
    """The bias of scores [N, classes] with the least balanced loss, by halving an interval.

    Its derivative there is zero, so that it counts as a constant in the loss's own.
    """
    low, high = (float(bound) for bound in (-scores.max() - FARTHEST, -scores.min() + FARTHEST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = sum(
            sign * float(torch.sigmoid(sign * (scores[where] + middle)).mean())
            for sign, where in _sides(targets)
        )
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low + high) / 2


def _sides(targets: Tensor) -> Sequence[tuple[int, Tensor]]:
    """Positives and negatives, as far as there are any."""
    return [(sign, where) for sign, where in ((-1, targets), (1, ~targets)) if bool(where.any())]
