# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The common part of every vision tower as an exported graph, and what each family defines."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.modeling.token_pruning import FUSED_INDEX, check_layers, prune
from vlm_perception.modeling.towers.positions import Positions
from vlm_perception.modeling.towers.trunk import TowerParts, TowerTrunk
from vlm_perception.modeling.transformer_layers import blocks_of, normalise

# Modules and configurations of transformers carry no types.
Module = Any


class VisionTower(TowerTrunk, ABC):
    """A dual encoder's tower.

    Image [1, H, W, 3] uint8 -> pooled [1, D], tokens [1, K, V], patches [1, K, D].

    `pooled` is the image in text space, L2-normalised. `tokens` are the features that the
    language model's projector reads. `patches` are the single patches in text space, normalised.

    With token pruning there is a fourth output, token_index [K] int64: the position of each token
    in the grid, ascending, and FUSED_INDEX for the last one, into which the dropped ones went.

    A family is a class of its own: it names itself, and defines where its parts are (`parts`),
    which tokens pruning keeps (`rank`) and how it pools (`pool`).
    """

    name: ClassVar[str]
    """`vision.family` in the manifest."""
    model_types: ClassVar[frozenset[str]]
    """`model_type` in `vision_config` of the language models that read such a tower."""
    class_tokens: ClassVar[int] = 0
    """Tokens before the patches, which no pruning drops and no language model reads."""
    whole_layers: ClassVar[int] = 0
    """Layers at the end that must not be pruned, as `pool` reads the states before them."""
    settings: ClassVar[tuple[str, ...]] = (
        "hidden_act",
        "layer_norm_eps",
        "num_attention_heads",
        "patch_size",
    )
    """In its configuration: what it computes by, beside its weights and their shapes."""

    @classmethod
    def check(cls, config: Module) -> None:
        """Refuse a dual encoder by its configuration.

        Raises:
            ExportError: this tower of it cannot be exported.
        """

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Find the parts of a tower, by default where CLIP and SigLIP have them."""
        embeddings = tower.embeddings
        table, patch = embeddings.position_embedding.weight.detach(), embeddings.patch_size

        def resize(columns: int, rows: int) -> Tensor:
            blank = torch.zeros(1, rows * columns + cls.class_tokens, table.shape[1])
            resized: Tensor = embeddings.interpolate_pos_encoding(
                blank, rows * patch, columns * patch
            )
            return resized

        positions = Positions(
            table=table,
            class_tokens=cls.class_tokens,
            image_size=embeddings.image_size,
            patch=patch,
            resize=resize,
        )
        blocks = blocks_of(tower.encoder)
        return TowerParts(embeddings.patch_embedding, blocks, tower.post_layernorm, positions)

    @classmethod
    @abstractmethod
    def embedding_width(cls, config: Module) -> int:
        """Width of the space that images and texts share, by the dual encoder's configuration."""

    @abstractmethod
    def take_over(self, model: Module) -> None:
        """Take from the dual encoder what `rank` and `pool` need beside the parts."""

    @abstractmethod
    def rank(self, hidden: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """How much each token matters to the image, for pruning.

        Args:
            hidden: [B, T, W], after a layer's attention.
            query: [B, heads, T, head width], of that attention, scaled.
            key: of the same shape.

        Returns:
            [B, T - class tokens]; with the share of the class tokens they add up to 1.
        """

    @abstractmethod
    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The image [B, D] and each patch [B, K, D] in text space, of all hidden states."""

    def __init__(
        self,
        model: Module,
        *,
        positions: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        feature_layers: Sequence[int],
        keep: Sequence[KeepStep] = (),
        random_seed: int | None = None,
    ) -> None:
        """Lay out a dual encoder's vision tower for the patches that have these positions.

        Args:
            model: the dual encoder.
            positions: position embeddings [1, tokens, W], the class tokens' first.
            mean: of each channel, for pixels of 0 to 1.
            std: of each channel.
            feature_layers: hidden states that the language model reads, as in LLaVA.
            keep: the steps of token pruning.
            random_seed: keep random patches, the same in each image, as a control of pruning.

        Raises:
            ExportError: `keep` prunes a layer that must not be pruned.
        """
        parts = self.parts(model.vision_model)
        super().__init__(
            parts, positions=positions, mean=mean, std=std, feature_layers=feature_layers
        )
        self.post_layernorm = parts.last_norm
        self.take_over(model)
        self.prunable = prunable_layers(len(self.layers), feature_layers, self.whole_layers)
        check_layers(keep, self.prunable)
        self.keep = {step.layer: step.tokens - 1 for step in keep}
        self.orders: dict[int, Tensor] = {}
        if random_seed is not None:
            patches = self.positions.shape[1] - self.class_tokens
            self.orders = random_orders(self.keep, patches, random_seed)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the tower."""
        *outputs, index = self.look(image)
        if not self.keep:
            return tuple(outputs)
        return *outputs, torch.cat([index[0], torch.full_like(index[0, :1], FUSED_INDEX)])

    def look(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the tower on several images [B, H, W, 3].

        Returns:
            `pooled` [B, D], `tokens` [B, K, V] and `patches` [B, K, D] as in its graph, and the
            place in the grid of each patch that is left [B, P]; a fused token comes behind them.
        """
        states, index = self._run_layers(self.embed(image))
        pooled, single = self.pool(states)
        return normalise(pooled), self.tokens(states), normalise(single), index

    def _run_layers(self, hidden: Tensor) -> tuple[list[Tensor], Tensor]:
        """All hidden states, the input first, [B, T, W] each, and the index of the patches left."""
        states = [hidden]
        index = torch.arange(hidden.shape[1] - self.class_tokens).expand(len(hidden), -1)
        for layer in range(len(self.layers)):
            length, width = hidden.shape[1:]
            flat, query, key = self.layers.attend(layer, hidden.reshape(-1, width), length)
            if layer in self.keep:
                hidden = flat.reshape(-1, length, width)
                weights = self.rank(hidden, query, key)
                hidden, index = self._prune(layer, hidden, index, weights)
                flat = hidden.reshape(-1, width)
            hidden = self.layers.feed_forward(layer, flat).reshape(hidden.shape)
            states.append(hidden)
        return states, index

    def _prune(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        count, order = self.keep[layer], self.orders.get(layer)
        return prune(hidden, index, weights, count, leading=self.class_tokens, order=order)


def random_orders(keep: Mapping[int, int], patches: int, seed: int) -> dict[int, Tensor]:
    """For each layer that is pruned a random order of its patches, [1, P]."""
    generator = torch.Generator().manual_seed(seed)
    counts = itertools.pairwise([patches, *keep.values()])
    return {
        layer: torch.randperm(before, generator=generator).unsqueeze(0)
        for layer, (before, _) in zip(keep, counts, strict=True)
    }


def prunable_layers(layers: int, feature_layers: Sequence[int], whole_layers: int) -> int:
    """How many of the layers, from the first, may be pruned.

    The output of layer i is hidden state i + 1. Pruning belongs before the end of the first layer
    that the language model reads, and before the layers that must stay whole.
    """
    states = [state % (layers + 1) for state in feature_layers]
    return min(*states, layers - whole_layers)
