# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The common part of every text tower as an exported graph, and what each family defines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from vlm_perception.modeling.transformer_layers import Layers, blocks_of, normalise

# Modules of transformers carry no types.
Module = Any


class TextTower(nn.Module, ABC):
    """Token ids [N, L] int64 -> embedding [N, D], L2-normalised.

    A family is a class of its own: it defines how a text and an image are compared, which tokens
    see each other (`mask`), and where the text is read (`pool`).
    """

    score: ClassVar[Literal["sigmoid", "softmax"]]
    """Whether labels have a probability each or share one."""
    reads_end: ClassVar[bool] = False
    """Whether a text without its end token cannot be read."""

    projection: nn.Module
    """From the last norm into the space that images and texts share."""
    mask: Tensor | None
    """[L, L], added to the scores of the attention; none: every token sees every other."""

    @classmethod
    def logit_bias(cls, model: Module) -> float:
        """What a logit gets beside the scaled cosine."""
        return 0.0

    @abstractmethod
    def take_over(self, model: Module, length: int) -> None:
        """Take `projection`, `mask` and what `pool` needs from the dual encoder."""

    @abstractmethod
    def places(self, input_ids: Tensor) -> Tensor:
        """Where texts [N, L] are read, int64 [N]."""

    @abstractmethod
    def pool(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """The text [N, W] of its hidden states [N, L, W]."""

    def __init__(self, model: Module, length: int) -> None:
        """Lay out a dual encoder's text tower for texts padded to `length` tokens."""
        super().__init__()
        tower = model.text_model
        self.token_embedding = tower.embeddings.token_embedding
        positions = tower.embeddings.position_embedding.weight[:length]
        self.positions = nn.Buffer(positions.detach().unsqueeze(0))
        self.layers = Layers(blocks_of(tower.encoder))
        self.final_norm = tower.final_layer_norm
        self.take_over(model, length)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Run the tower."""
        hidden = self.token_embedding(input_ids) + self.positions
        hidden = self.layers(hidden, self.mask)
        return normalise(self.projection(self.final_norm(self.pool(hidden, input_ids))))

    def read(self, embeds: Tensor, input_ids: Tensor) -> Tensor:
        """Run the tower on embeddings of tokens [N, L, W], some of which may be of no token.

        Where no token sees a later one (`mask`), L may be less than the tower's length. The last
        layer computes the token alone that is read: of two layers that is nearly half.
        """
        length, mask = embeds.shape[1], self.mask
        positions: Tensor = self.positions
        if mask is not None and length != positions.shape[1]:
            positions, mask = positions[:, :length], mask[:length, :length]
        one = self.layers.at(embeds + positions, self.places(input_ids), mask)
        return normalise(self.projection(self.final_norm(one)))
