# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The projectors as they are exported: from the tower's tokens to what the decoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.decoder import embedding_scale

# Modules of transformers carry no types.
Module = Any


class ProjectorGraph(nn.Module):
    """Each token by itself: tokens [N, K, V] -> embeds [N, K, W], with a newline [N, K + 1, W]."""

    def __init__(self, projector: Module, newline: Tensor | None = None) -> None:
        """Take over LLaVA's projector; LLaVA-OneVision ends an image with a newline, [W]."""
        super().__init__()
        self.projector = projector
        self.newline = (
            nn.Buffer(newline.detach().reshape(1, 1, -1)) if newline is not None else None
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Project."""
        embeds: Tensor = self.projector(tokens)
        if self.newline is None:
            return embeds
        return torch.cat([embeds, self.newline.expand(len(embeds), -1, -1)], dim=1)


class ShuffleProjectorGraph(nn.Module):
    """Oblongs of S x R tokens joined: tokens [N, rows * columns, V] -> embeds [N, K / (S R), W].

    The pixel shuffle of InternVL and Idefics3 (https://arxiv.org/abs/2408.12637, section 2.2) after
    the last layer norm of the tower, and the merger of Qwen-VL. It reads the tokens as a grid, so
    none of them may be missing.
    """

    def __init__(
        self,
        projection: nn.Module,
        side: int | tuple[int, int],
        norm: nn.Module,
        grid: tuple[int, int],
    ) -> None:
        """Take over a projection.

        Args:
            projection: of the joined tokens.
            side: patches along each side of the squares, or across and down.
            norm: the tower's last.
            grid: columns and rows of patches.

        Raises:
            ExportError: the grid cannot be divided into them.
        """
        super().__init__()
        self.columns, self.rows = grid
        self.across, self.down = (side, side) if isinstance(side, int) else side
        if self.columns % self.across or self.rows % self.down:
            raise ExportError(
                f"the connector of vlm/ merges squares of {self.across}x{self.down} patches, but "
                f"{self.columns}x{self.rows} patches cannot be divided into them; choose another "
                "geometry"
            )
        self.norm, self.projection = norm, projection

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Normalise, join and project; each token stands at its place."""
        across, down, count, width = self.across, self.down, tokens.shape[0], tokens.shape[-1]
        shape = (count, self.rows // down, down, self.columns // across, across, width)
        oblongs = self.norm(tokens).reshape(shape).transpose(2, 3)
        return self.projection(oblongs.reshape(count, -1, across * down * width))  # type: ignore[no-any-return]


class StackedGraph(nn.Module):
    """Tokens of S layers side by side: tokens [N, K, S V] -> embeds [N, M, S W].

    DeepStack (https://arxiv.org/abs/2406.04334): the decoder's first layers read what follows the
    last layer's.
    """

    def __init__(self, projectors: Sequence[nn.Module]) -> None:
        """Take over the projector of each layer, [N, K, V] -> [N, M, W]."""
        super().__init__()
        self.projectors = nn.ModuleList(projectors)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project each layer's."""
        layers = tokens.chunk(len(self.projectors), dim=-1)
        projected = [
            projector(layer) for projector, layer in zip(self.projectors, layers, strict=True)
        ]
        return torch.cat(projected, dim=-1)


class ArrangedGraph(nn.Module):
    """An image in several views as the decoder reads it: tokens [views, K, V] -> embeds [1, N, W].

    What stands between the views is constant, and so is the place of each embedding.
    """

    def __init__(self, projector: nn.Module, between: Tensor, order: Sequence[int]) -> None:
        """Put what a projector gives into an order.

        Args:
            projector: tokens [views, K, V] -> embeddings [views, M, W].
            between: embeddings [E, W] of what stands between the views.
            order: for each of the N places a row of the projector's, view by view, or behind those
                a row of `between`.
        """
        super().__init__()
        self.projector = projector
        self.between = nn.Buffer(between.detach().clone())
        self.order = nn.Buffer(torch.tensor(order))

    def forward(self, tokens: Tensor) -> Tensor:
        """Project and arrange."""
        rows = torch.cat([self.projector(tokens).flatten(0, 1), self.between])
        return rows.index_select(0, self.order).unsqueeze(0)


class UnscaledProjector(nn.Module):
    """Another projector for a decoder that scales all that it reads, which images are not to be."""

    def __init__(self, projector: nn.Module, scale: float) -> None:
        """Take over a projector and the decoder's scale."""
        super().__init__()
        self.projector, self.scale = projector, scale

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Project."""
        places = () if token_index is None else (token_index,)
        embeds: Tensor = self.projector(tokens, *places)
        return embeds / self.scale


def as_embeddings(projector: nn.Module, decoder: Module) -> nn.Module:
    """A projector whose outputs stand among a decoder's token embeddings as they are stored."""
    scale = embedding_scale(decoder)
    return projector if scale == 1.0 else UnscaledProjector(projector, scale)
