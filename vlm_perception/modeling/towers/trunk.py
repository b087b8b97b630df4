# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What every exported vision tower has: pixels become patches, and these go through layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vlm_perception.modeling.towers.positions import Positions
from vlm_perception.modeling.transformer_layers import Block, Layers

# Modules and configurations of transformers carry no types.
Module = Any
BLOCKED = -1e9
"""Added to the score of a token that must not be seen."""


@dataclass(frozen=True)
class TowerParts:
    """Where the parts of a vision tower are among transformers' modules."""

    patch_embedding: nn.Module
    """Pixels [B, 3, H, W] -> [B, W, rows, columns]."""
    blocks: tuple[Block, ...]
    last_norm: nn.Module
    positions: Positions
    class_token: Tensor | None = None
    """[1, 1, W], which goes before the patches."""
    first_norm: nn.Module | None = None
    """Of what goes into the layers."""
    rotary: Callable[[int, int], tuple[Tensor, Tensor]] | None = None
    """Cosines and sines [T, head width] that queries and keys are rotated by, for a grid of
    (columns, rows); none: positions are learned only."""
    windows: Callable[[int, int], Tensor] | None = None
    """Number of the window that each token of such a grid is in, [T]."""
    windowed: frozenset[int] = frozenset()
    """Layers in which tokens see those of their own window only."""


class KnownTower(Protocol):
    """A kind of tower: what it is called, and where its parts are."""

    name: ClassVar[str]
    """`family` in the manifest."""
    model_types: ClassVar[frozenset[str]]
    """`model_type` in `vision_config` of the language models that read such a tower."""
    class_tokens: ClassVar[int]
    """Tokens before the patches, which no language model reads."""

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Find the parts of a tower among transformers' modules."""
        ...


class TowerTrunk(nn.Module):
    """The way from an image [1, H, W, 3] uint8 to the hidden states [1, T, W]."""

    def __init__(
        self,
        parts: TowerParts,
        *,
        positions: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        feature_layers: Sequence[int],
    ) -> None:
        """Lay out the parts of a tower.

        Args:
            parts: of the tower.
            positions: position embeddings [1, tokens, W] of its patches, the class token's first.
            mean: of each channel, for pixels of 0 to 1.
            std: of each channel.
            feature_layers: hidden states that a language model reads, as in LLaVA.
        """
        super().__init__()
        self.patch_embedding, self.first_norm = parts.patch_embedding, parts.first_norm
        self.layers = Layers(parts.blocks)
        self.feature_layers = tuple(feature_layers)
        scale = torch.tensor([1.0 / (255.0 * value) for value in std])
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self.scale = nn.Buffer(scale.reshape(1, 3, 1, 1))
        self.shift = nn.Buffer(shift.reshape(1, 3, 1, 1))
        self.positions = nn.Buffer(positions.detach().clone())
        token = parts.class_token
        self.class_token = nn.Buffer(token.detach()) if token is not None else None
        self.leading = parts.positions.class_tokens
        """Tokens before the patches, which no language model reads."""

    def embed(self, image: Tensor) -> Tensor:
        """What goes into the layers [B, T, W]."""
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        hidden: Tensor = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            hidden = torch.cat([self.class_token.expand(len(hidden), -1, -1), hidden], dim=1)
        hidden = hidden + self.positions
        return hidden if self.first_norm is None else self.first_norm(hidden)

    def tokens(self, states: Sequence[Tensor]) -> Tensor:
        """What the language model's projector reads [B, K, V], of all hidden states."""
        chosen = [states[layer][:, self.leading :] for layer in self.feature_layers]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)


class LanguageTower(TowerTrunk):
    """A language model's own tower: image [1, H, W, 3] uint8 -> tokens [1, K, V].

    It ends where the language model reads it: layers behind that are left out.
    """

    def __init__(
        self,
        parts: TowerParts,
        *,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        feature_layers: Sequence[int],
    ) -> None:
        """Lay out the parts of a tower for one grid.

        Args:
            parts: of the tower.
            grid: columns and rows of its patches.
            mean: of each channel, for pixels of 0 to 1.
            std: of each channel.
            feature_layers: hidden states that the language model reads.
        """
        super().__init__(
            replace(parts, blocks=parts.blocks[: max(feature_layers)]),
            positions=parts.positions.of_grid(*grid),
            mean=mean,
            std=std,
            feature_layers=feature_layers,
        )
        rotary = (None, None) if parts.rotary is None else parts.rotary(*grid)
        self.cosine, self.sine = (None if each is None else nn.Buffer(each) for each in rotary)
        self.windowed, mask = parts.windowed, None
        if parts.windows is not None:
            window = parts.windows(*grid)
            mask = nn.Buffer(torch.where(window[:, None] == window, 0.0, BLOCKED))
        self.mask = mask

    def forward(self, image: Tensor) -> Tensor:
        """Run the tower."""
        hidden = self.embed(image)
        states, (length, width) = [hidden], hidden.shape[1:]
        rotary = None
        if self.cosine is not None and self.sine is not None:
            rotary = self.cosine, self.sine
        for layer in range(len(self.layers)):
            mask = self.mask if layer in self.windowed else None
            flat, _, _ = self.layers.attend(layer, hidden.reshape(-1, width), length, mask, rotary)
            hidden = self.layers.feed_forward(layer, flat).reshape(hidden.shape)
            states.append(hidden)
        return self.tokens(states)
