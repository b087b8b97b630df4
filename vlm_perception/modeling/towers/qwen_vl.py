# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

https://arxiv.org/abs/2409.12191, https://arxiv.org/abs/2502.13923, https://arxiv.org/abs/2511.21631
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from vlm_perception.modeling.towers.positions import Positions
from vlm_perception.modeling.towers.trunk import TowerParts
from vlm_perception.modeling.transformer_layers import Attention, Block

# Modules and configurations of transformers carry no types.
Module = Any


class Qwen2Vision:
    """That of Qwen2-VL: rotary positions only.

    Patches are in the order of the image. transformers has them square by square, which is the
    same: each is rotated by its place, and sees all others.
    """

    name: ClassVar[str] = "qwen2_vl"
    model_types: ClassVar[frozenset[str]] = frozenset({"qwen2_vl_vision"})
    class_tokens: ClassVar[int] = 0

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Find the parts of transformers' tower."""
        embedding = _of_still_images(tower.patch_embed.proj)
        width = embedding.out_channels
        positions = Positions(
            table=torch.zeros(0, width),
            class_tokens=cls.class_tokens,
            image_size=0,
            patch=tower.config.patch_size,
            resize=lambda columns, rows: torch.zeros(1, columns * rows, width),
            for_any_grid=True,
        )
        return TowerParts(
            patch_embedding=embedding,
            blocks=tuple(_block(each) for each in tower.blocks),
            last_norm=tower.merger.ln_q,
            positions=positions,
            rotary=lambda columns, rows: _rotary(tower, columns, rows),
        )


class Qwen25Vision(Qwen2Vision):
    """That of Qwen2.5-VL: in most layers a patch sees the others of its window only."""

    name = "qwen2_5_vl"
    model_types = frozenset({"qwen2_5_vl_vision"})

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Those of Qwen2-VL, with windows."""
        merge = tower.spatial_merge_size
        side = tower.window_size // merge // tower.patch_size * merge

        def windows(columns: int, rows: int) -> Tensor:
            row, column = _raster(columns, rows)
            number: Tensor = row // side * columns + column // side
            return number

        windowed = frozenset(range(len(tower.blocks))) - frozenset(tower.fullatt_block_indexes)
        return replace(super().parts(tower), windows=windows, windowed=windowed)


class Qwen3Vision:
    """That of Qwen3-VL: learned positions, resized for each grid, beside rotary ones."""

    name: ClassVar[str] = "qwen3_vl"
    model_types: ClassVar[frozenset[str]] = frozenset({"qwen3_vl_vision"})
    class_tokens: ClassVar[int] = 0

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Find the parts of transformers' tower."""
        table, side = tower.pos_embed.weight.detach(), tower.num_grid_per_side

        def resize(columns: int, rows: int) -> Tensor:
            taps, weights = get_vision_interpolation_indices_and_weights(
                torch.tensor([[1, rows, columns]]),
                num_grid_per_side=side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
            )
            resized: Tensor = (table[taps] * weights[:, :, None]).sum(dim=1)
            return resized.unsqueeze(0)

        positions = Positions(
            table=table,
            class_tokens=cls.class_tokens,
            image_size=side * tower.patch_size,
            patch=tower.patch_size,
            resize=resize,
            for_any_grid=True,
        )
        return TowerParts(
            patch_embedding=_of_still_images(tower.patch_embed.proj),
            blocks=tuple(_block(each) for each in tower.blocks),
            last_norm=tower.merger.norm,
            positions=positions,
            rotary=lambda columns, rows: _rotary(tower, columns, rows),
        )


def _of_still_images(convolution: nn.Conv3d) -> nn.Conv2d:
    """A patch embedding of frame pairs for images, which transformers shows twice."""
    _, rows, columns = convolution.kernel_size
    flat = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        kernel_size=(rows, columns),
        stride=(rows, columns),
        device="meta",
    )
    flat.weight = nn.Parameter(convolution.weight.detach().sum(dim=2))
    flat.bias = convolution.bias
    return flat


def _block(layer: Module) -> Block:
    query, key, value = _apart(layer.attn.qkv)
    return Block(
        first_norm=layer.norm1,
        attention=Attention(query, key, value, layer.attn.proj, layer.attn.num_heads),
        second_norm=layer.norm2,
        feed_forward=layer.mlp,
    )


def _apart(fused: nn.Linear) -> Sequence[nn.Linear]:
    """Queries, keys and values as layers of their own."""
    weights, biases = fused.weight.detach().chunk(3), fused.bias.detach().chunk(3)
    parts = []
    for weight, bias in zip(weights, biases, strict=True):
        part = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        part.weight, part.bias = nn.Parameter(weight), nn.Parameter(bias)
        parts.append(part)
    return parts


def _raster(columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch, row by row."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return row.flatten(), column.flatten()


def _rotary(tower: Module, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    places = torch.stack(_raster(columns, rows), dim=-1)
    cosine, sine = tower.rotary_pos_emb(torch.zeros(1), places)
    return cosine, sine
