# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bridges that give the decoder fewer tokens than the tower has.

Each takes tokens [B, K, V] and token_index [B, K], their places in the grid (FUSED_INDEX for a
token that others were fused into), and gives embeds [B, M, W]. Where all tokens of the grid are
there, the index may be left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.bridge_spec import BridgeSpec
from vlm_perception.modeling.projectors import ShuffleProjectorGraph
from vlm_perception.modeling.token_pruning import prune
from vlm_perception.modeling.towers.siglip import PoolingHead

# Modules of transformers carry no types.
Module = Any
Grid = tuple[int, int]
"""Columns and rows."""
HEAD_WIDTH = 32
"""Of the Q-Former's attention."""
SHARPNESS = 2.0
"""Length of the Q-Former's first place embeddings, per wave: a query begins by looking around its
place, a quarter of its weight within a twelfth of the grid's width."""


class TokenChoice(nn.Module):
    """The tokens that the tower's pooling head attends to most, and the others fused into one.

    As token pruning in the tower does it (`prune`), only at its end and for the decoder alone.
    """

    def __init__(self, tower: Module, count: int) -> None:
        """Rank by a SiglipVisionModel's pooling head.

        Args:
            tower: transformers' module; takes no part in training.
            count: tokens that are left, the fused one included.

        Raises:
            ExportError: it has no pooling head to rank by, or `count` is 1.
        """
        super().__init__()
        if getattr(tower, "head", None) is None:
            raise ExportError(
                "a bridge of kind mlp with fewer tokens ranks them by a SigLIP's pooling head, "
                "which this tower has not; choose q-former, pixel-shuffle or average"
            )
        if count < 2:
            raise ExportError("a bridge of kind mlp keeps 2 tokens or more; choose another kind")
        self.norm, self.head, self.count = tower.post_layernorm, PoolingHead(tower.head), count
        self.requires_grad_(False)

    def forward(self, tokens: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, count, V] and their index [B, count - 1], without the fused one's place.

        Args:
            tokens: [B, P (+ 1), V], possibly followed by a fused token.
            index: [B, P] of those that have a place.
        """
        if tokens.shape[1] <= self.count:
            raise ExportError(
                f"the bridge keeps {self.count} of the tower's tokens, but that gives only "
                f"{tokens.shape[1]}; prune less, or train a bridge with fewer"
            )
        # In half precision tokens tie, and others would be chosen than in the exported graph.
        with torch.autocast(tokens.device.type, enabled=False):
            weights = self.head.attention(self.norm(tokens.float())).mean(dim=1)
            return prune(tokens, index, weights, self.count - 1)


class ChosenTokens(nn.Module):
    """LLaVA's projector over the tokens that matter most (EViT's pruning, at the tower's end)."""

    def __init__(self, projector: Module, choice: TokenChoice, cells: int) -> None:
        """Take over a projector of single tokens, for a grid of so many cells."""
        super().__init__()
        self.projector, self.choice, self.cells = projector, choice, cells

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Choose and project; which of the places they have is of no matter."""
        # Where tokens are missing, the last is what they were fused into.
        placed = tokens.shape[1] - (tokens.shape[1] != self.cells)
        order = torch.arange(placed, device=tokens.device).expand(len(tokens), -1)
        chosen, _ = self.choice(tokens, order)
        embeds: Tensor = self.projector(chosen)
        return embeds


class AverageBridge(nn.Module):
    """The mean of the tokens in each of M cells of the grid, then LLaVA's projector.

    Cells and their overlaps are those of adaptive average pooling.
    """

    def __init__(self, projector: Module, tokens: int, grid: Grid) -> None:
        """Take over a projector of single tokens."""
        super().__init__()
        self.projector = projector
        across, down = (
            _averaging(parts, size) for parts, size in zip(cells(tokens, grid), grid, strict=True)
        )
        self.weights = nn.Buffer(torch.kron(down, across), persistent=False)

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Average and project."""
        embeds: Tensor = self.projector(self.weights @ tokens)
        return embeds


def _averaging(parts: int, size: int) -> Tensor:
    """[parts, size]: the weight of each place in each part, as adaptive pooling has it."""
    weights = torch.zeros(parts, size)
    for part in range(parts):
        first, end = part * size // parts, -(-(part + 1) * size // parts)
        weights[part, first:end] = 1.0 / (end - first)
    return weights


def shuffle_bridge(seen: int, read: int, tokens: int, grid: Grid) -> ShuffleProjectorGraph:
    """The pixel shuffle with an MLP over the joined tokens.

    Args:
        seen: width of the tower's tokens.
        read: width of the decoder.
        tokens: that it gives.
        grid: of the tower; the oblongs whose tokens are joined divide it.

    Raises:
        ExportError: no oblongs do.
    """
    (columns, rows), joined = grid, grid[0] * grid[1] // tokens
    ways = [
        (across, joined // across)
        for across in range(1, joined + 1)
        if joined % across == 0 and columns % across == 0 and rows % (joined // across) == 0
    ]
    if not ways or joined * tokens != columns * rows:
        fit = sorted(
            columns * rows // (across * down)
            for across in range(1, columns + 1)
            for down in range(1, rows + 1)
            if columns % across == 0 and rows % down == 0
        )
        raise ExportError(
            f"a pixel shuffle cannot make {tokens} tokens of {columns}x{rows} patches; it can make "
            f"{', '.join(map(str, dict.fromkeys(fit)))}"
        )
    side = min(ways, key=lambda way: abs(math.log(way[0] / way[1])))
    layers = nn.Sequential(nn.Linear(seen * joined, read), nn.GELU(), nn.Linear(read, read))
    return ShuffleProjectorGraph(layers, side, nn.Identity(), grid)


class QFormer(nn.Module):
    """Learned queries that look at all tokens: BLIP-2's Q-Former, reduced to what a bridge needs.

    Queries attend to each other, then to the tokens, then go through a feed-forward part
    (https://arxiv.org/abs/2301.12597, section 3.1; without its text branch). The keys carry the
    places of the tokens, so that it reads whatever tokens pruning has left. It begins as an average
    around places spread over the grid, which trains faster than queries that look everywhere.
    """

    def __init__(self, seen: int, read: int, tokens: int, grid: Grid, layers: int) -> None:
        """Begin with random weights.

        Args:
            seen: width of the tower's tokens.
            read: width of the decoder.
            tokens: queries.
            grid: of the tower.
            layers: each with attention and a feed-forward part.

        Raises:
            ExportError: the decoder's width cannot be divided into heads.
        """
        super().__init__()
        if read % 4:
            raise ExportError(f"a Q-Former needs a decoder of a width that 4 divides, not {read}")
        self.grid = grid
        self.reader = nn.Sequential(nn.Linear(seen, read), nn.GELU(), nn.Linear(read, read))
        self.norm = nn.LayerNorm(read)
        head_width = math.gcd(read, HEAD_WIDTH)
        around = _waves(_centres(grid), read, head_width)
        # The last is the place of a token that others were fused into: nowhere.
        self.places = nn.Parameter(torch.cat([around, torch.zeros(1, read)]))
        self.queries = nn.Parameter(torch.randn(tokens, read) * 0.02)
        self.stands = nn.Parameter(_waves(_centres(cells(tokens, grid)), read, head_width))
        looks = [_QueryLayer(read, head_width, first=number == 0) for number in range(layers)]
        self.layers = nn.ModuleList(looks)

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Read the tokens."""
        return self.read(tokens, token_index)[0]

    def read(self, tokens: Tensor, token_index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder reads [B, M, W], and the layers' keys and values [B, K, 2 layers W].

        Only a few tokens matter to a caption; what keys and values say of the others is taught by
        a loss of its own.
        """
        memory = self.reader(tokens)
        normed = self.norm(memory)
        if token_index is None:
            places = self.places[:-1]
        else:
            last = len(self.places) - 1
            index = torch.where(token_index < 0, torch.full_like(token_index, last), token_index)
            places = functional.embedding(index, self.places)
        seen, hidden = [], self.queries.expand(len(tokens), -1, -1)
        layer: _QueryLayer
        for layer in self.layers:  # type: ignore[assignment]
            keys, values = layer.key(normed), layer.value(memory)
            hidden = layer(hidden, self.stands, keys + places, values)
            seen += [keys, values]
        return hidden, torch.cat(seen, dim=-1)


class _QueryLayer(nn.Module):
    """Attention among queries, attention to tokens, and a feed-forward part."""

    def __init__(self, width: int, head_width: int, *, first: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.own_norm, self.cross_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.own, self.own_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        # All that is added begins as nothing, but for the first look around.
        for layer in (self.own_out, self.down, self.out):
            nn.init.zeros_(layer.weight)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.query, self.key, self.value, self.own_out, self.down, self.out):
            nn.init.zeros_(layer.bias)
        if first:
            nn.init.eye_(self.value.weight)
            nn.init.eye_(self.out.weight)

    def forward(self, hidden: Tensor, stands: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [B, M, W] at `stands` [M, W], over keys and values [B, K, W]."""
        own, at, passed = self.own(self.own_norm(hidden)).chunk(3, dim=-1)
        hidden = hidden + self.own_out(self._attend(own, at, passed))
        queries = self.query(self.cross_norm(hidden)) + stands
        hidden = hidden + self.out(self._attend(queries, keys, values))
        forward: Tensor = self.down(functional.gelu(self.up(self.norm(hidden))))
        return hidden + forward

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        query, key, value = (
            part.reshape(*part.shape[:2], -1, self.head_width).transpose(1, 2)
            for part in (queries, keys, values)
        )
        weights = (query @ key.transpose(-1, -2) * self.head_width**-0.5).softmax(dim=-1)
        mixed: Tensor = (weights @ value).transpose(1, 2).flatten(-2)
        return mixed


def cells(tokens: int, grid: Grid) -> Grid:
    """Columns and rows of so many cells whose shape is nearest to a square."""
    ways = [(across, tokens // across) for across in range(1, tokens + 1) if tokens % across == 0]
    columns, rows = grid
    return min(ways, key=lambda way: abs(math.log(way[0] * rows / (way[1] * columns))))


def _centres(grid: Grid) -> Tensor:
    """Centres [cells, 2] of the cells, row by row, in shares of the whole."""
    columns, rows = grid
    down, across = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
    )
    return torch.stack([across, down], dim=-1).reshape(-1, 2)


def _waves(places: Tensor, width: int, head_width: int) -> Tensor:
    """Places [N, 2] as sines and cosines [N, width], alike in each head: near ones are alike."""
    count = head_width // 4
    frequencies = math.pi * torch.logspace(0, math.log2(8.0), count, base=2.0)
    angles = places[:, :, None] * frequencies
    one = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1) * SHARPNESS
    return one.repeat(1, width // head_width)


def build_bridge(
    spec: BridgeSpec, *, tower: Module, projector: Module, read: int, grid: Grid
) -> nn.Module:
    """A bridge as a recipe or bundle.yaml describes it.

    Args:
        spec: the description.
        tower: the vision tower that it reads, of transformers.
        projector: LLaVA's, whose weights the kinds without weights of their own keep, and which the
            Q-Former's reader begins with.
        read: width of the decoder.
        grid: columns and rows of the tower's patches.

    Raises:
        ExportError: the bridge does not fit the tower, the decoder or the grid.
    """
    seen: int = projector.linear_1.in_features
    if spec.tokens is None:
        return SingleTokens(projector)
    if spec.tokens > grid[0] * grid[1]:
        raise ExportError(
            f"a bridge with {spec.tokens} tokens gives more than the tower, which has "
            f"{grid[0]}x{grid[1]} patches"
        )
    if spec.kind == "mlp":
        return ChosenTokens(projector, TokenChoice(tower, spec.tokens), grid[0] * grid[1])
    if spec.kind == "average":
        return AverageBridge(projector, spec.tokens, grid)
    if spec.kind == "pixel-shuffle":
        return shuffle_bridge(seen, read, spec.tokens, grid)
    return QFormer(seen, read, spec.tokens, grid, spec.layers)


class SingleTokens(nn.Module):
    """LLaVA's projector over each token by itself."""

    def __init__(self, projector: Module) -> None:
        """Take over a projector."""
        super().__init__()
        self.projector = projector

    def forward(self, tokens: Tensor, token_index: Tensor | None = None) -> Tensor:
        """Project."""
        embeds: Tensor = self.projector(tokens)
        return embeds


@torch.no_grad()
def begin_with(bridge: nn.Module, projector: Module) -> None:
    """Let a bridge with weights of its own begin as an average over LLaVA's projector."""
    first, last = projector.linear_1, projector.linear_2
    layers: Module
    if isinstance(bridge, QFormer):
        layers = bridge.reader
    elif isinstance(bridge, ShuffleProjectorGraph):
        layers = bridge.projection
    else:
        return
    joined = layers[0].in_features // first.in_features
    layers[0].weight.copy_(first.weight.repeat(1, joined) / joined)
    layers[2].weight.copy_(last.weight)
    for ours, theirs in ((layers[0], first), (layers[2], last)):
        ours.bias.copy_(theirs.bias)
