# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The text tower as it is exported: token ids in, embedding out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlm_perception.modeling.transformer_layers import Layers, normalise

# Modules of transformers carry no types.
Module = Any


class TextGraph(nn.Module):
    """Token ids [N, L] int64 -> embedding [N, D], L2-normalised."""

    def __init__(self, model: Module, length: int) -> None:
        """Lay out a dual encoder's text tower for texts padded to `length` tokens."""
        super().__init__()
        tower = model.text_model
        self.clip = hasattr(model, "text_projection")
        self.token_embedding = tower.embeddings.token_embedding
        positions = tower.embeddings.position_embedding.weight[:length]
        self.positions = nn.Buffer(positions.detach().unsqueeze(0))
        self.layers = Layers(tower.encoder.layers)
        self.final_norm = tower.final_layer_norm
        self.projection = model.text_projection if self.clip else tower.head
        mask = torch.full((length, length), -1e9).triu(1) if self.clip else None
        self.mask = nn.Buffer(mask, persistent=False) if mask is not None else None
        self.eos_token_id = tower.config.eos_token_id

    def forward(self, input_ids: Tensor) -> Tensor:
        """Run the tower."""
        hidden = self.token_embedding(input_ids) + self.positions
        hidden = self.layers(hidden, self.mask)
        hidden = hidden[:, -1] if not self.clip else self._at_end(hidden, input_ids)
        return normalise(self.projection(self.final_norm(hidden)))

    def _at_end(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        # Checkpoints from before transformers 4.31 say 2 and mean the highest id.
        ends = input_ids if self.eos_token_id == 2 else (input_ids == self.eos_token_id).long()
        index = ends.argmax(dim=-1).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, index)[:, 0]
