# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""InternViT, the vision tower of InternVL (https://arxiv.org/abs/2312.14238, section 3.2)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_perception.modeling.towers.positions import Positions
from vlm_perception.modeling.towers.trunk import TowerParts
from vlm_perception.modeling.transformer_layers import Attention, Block

# Modules of transformers carry no types.
Module = Any


class InternVision:
    """A language model's tower: class token, learned positions, layer scale."""

    name: ClassVar[str] = "internvl"
    model_types: ClassVar[frozenset[str]] = frozenset({"internvl_vision"})
    class_tokens: ClassVar[int] = 1

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Find the parts of transformers' tower."""
        embeddings = tower.embeddings
        (side, _), (patch, _) = embeddings.image_size, embeddings.patch_size
        patches = embeddings.patch_embeddings
        table = embeddings.position_embeddings
        if table is None:
            table = torch.zeros(1, patches.num_patches + cls.class_tokens, tower.config.hidden_size)

        def resize(columns: int, rows: int) -> Tensor:
            blank = torch.zeros(1, rows * columns + cls.class_tokens, table.shape[2])
            resized: Tensor = embeddings.interpolate_pos_encoding(
                blank, rows * patch, columns * patch
            )
            return resized

        positions = Positions(
            table=table[0].detach(),
            class_tokens=cls.class_tokens,
            image_size=side,
            patch=patch,
            resize=resize,
        )
        return TowerParts(
            patch_embedding=patches.projection,
            blocks=tuple(_block(layer) for layer in tower.encoder.layer),
            last_norm=tower.layernorm,
            positions=positions,
            class_token=embeddings.cls_token.detach(),
        )


def _block(layer: Module) -> Block:
    attention = layer.attention
    normed = attention.config.use_qk_norm
    return Block(
        first_norm=layer.layernorm_before,
        attention=Attention(
            query=attention.q_proj,
            key=attention.k_proj,
            value=attention.v_proj,
            out=attention.projection_layer,
            heads=attention.num_heads,
            query_norm=attention.q_norm if normed else None,
            key_norm=attention.k_norm if normed else None,
        ),
        second_norm=layer.layernorm_after,
        feed_forward=layer.mlp,
        read_scale=layer.lambda_1,
        fed_scale=layer.lambda_2,
    )
