# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL at one size of image: the view, what the decoder reads of it, and its positions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.views import TilingView, ViewFit
from vlm_perception.modeling.projectors import (
    ShuffleProjectorGraph,
    StackedGraph,
    as_embeddings,
)

# Models of transformers carry no types.
Model = Any
IMAGE_TOKENS = 256
"""Most tokens of an image where nothing else is asked for: 512x512 pixels in Qwen3-VL."""
ENLARGED = 64
"""A camera's image is taken for larger than any view, so that only its aspect counts."""

_log = logging.getLogger(__name__)


class QwenView(TilingView):
    """Stretched to the size that the processor gives a camera's image within a number of tokens."""

    most = IMAGE_TOKENS

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, whole squares of merged patches.

        Raises:
            ExportError: the processor makes no images of so few tokens, or none of that aspect.
        """
        limits, name = self.processor.size, type(self.processor).__name__
        square = self.processor.patch_size * self.processor.merge_size
        least = -(-limits.shortest_edge // square**2)
        if self.most < least:
            raise ExportError(
                f"--image-tokens {self.most}: the {name} of vlm/ makes images of {least} tokens "
                "and more; give as many"
            )
        width, height = (ENLARGED * each for each in self.camera)
        try:
            height, width = smart_resize(
                height,
                width,
                factor=square,
                min_pixels=limits.shortest_edge,
                max_pixels=min(self.most * square**2, limits.longest_edge),
            )
        except ValueError as error:
            raise ExportError(
                f"the {name} of vlm/ makes no images of {self._aspect()}: {error}"
            ) from error
        return width, height

    def fit(self) -> ViewFit:
        """Stretched by a few per cent to that size."""
        limits = self.processor.size
        if not (self.processor.do_resize and limits.shortest_edge and limits.longest_edge):
            self.refuse("set size to shortest_edge and longest_edge (pixels of the image)")
        width, height = self.size
        if self.guessed:
            _log.warning(
                "the language model sees every image stretched to %dx%d; to keep the shape of "
                "things, give the camera's aspect (--aspect W:H)",
                width,
                height,
            )
        return ViewFit(self.stretched(width, height))

    def inputs(self, image: Image.Image) -> dict[str, Any]:
        """Patches of an image of that size, whatever the image's aspect."""
        fitted = image.resize(self.size, self.processor.resample)
        made = self.processor(images=fitted, do_resize=False, return_tensors="pt")
        return {name: made[name] for name in ("pixel_values", "image_grid_thw")}

    def prepare(self, vlm: Model) -> None:
        """Refuse a processor of another tower."""
        tower, processor = vlm.config.vision_config, self.processor
        ours = processor.patch_size, processor.merge_size
        theirs = tower.patch_size, tower.spatial_merge_size
        if ours != theirs:
            raise ExportError(
                f"the {type(processor).__name__} of vlm/ makes patches of {ours[0]} pixels, merged "
                f"by {ours[1]}x{ours[1]}, and the tower {theirs[0]} and {theirs[1]}x{theirs[1]}: "
                "they do not belong together; download both from the same model"
            )

    def _limit(self, tokens: int) -> None:
        self.most = tokens


def merged_patches(model: Model, norm: nn.Module, grid: tuple[int, int]) -> nn.Module:
    """The merger of Qwen2-VL and Qwen2.5-VL."""
    tower = model.visual
    projector = ShuffleProjectorGraph(tower.merger.mlp, tower.spatial_merge_size, norm, grid)
    return as_embeddings(projector, model.language_model)


def stacked_patches(model: Model, _norm: nn.Module, grid: tuple[int, int]) -> nn.Module:
    """Qwen3-VL's mergers, of the last layer and of those that DeepStack reads."""
    tower = model.visual
    earlier = [
        tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(layer)]
        for layer in sorted(tower.deepstack_visual_indexes)
    ]
    mergers = [_merger(each, tower.spatial_merge_size, grid) for each in (tower.merger, *earlier)]
    return as_embeddings(StackedGraph(mergers), model.language_model)


def _merger(merger: Model, side: int, grid: tuple[int, int]) -> nn.Module:
    layers = [merger.linear_fc1, merger.act_fn, merger.linear_fc2]
    norm: nn.Module = merger.norm
    if merger.use_postshuffle_norm:
        layers, norm = [norm, *layers], nn.Identity()
    return ShuffleProjectorGraph(nn.Sequential(*layers), side, norm, grid)


def token_places(vlm: Model, grid: tuple[int, int], before: int) -> Tensor:
    """Positions of a prompt's first tokens along three axes (M-RoPE), by transformers' own code.

    Args:
        vlm: the model.
        grid: columns and rows of an image's patches.
        before: tokens before the image.

    Returns:
        [tokens + 1, D / 2]: for each frequency of the decoder the position, on the axis that it
        takes, of each token up to the image's last, and of the next one.
    """
    (columns, rows), side = grid, vlm.model.visual.spatial_merge_size
    count = columns * rows // side**2
    kinds = torch.tensor([[*[0] * before, *[1] * count, 0]])
    axes, _ = vlm.model.get_rope_index(
        torch.zeros_like(kinds),
        mm_token_type_ids=kinds,
        image_grid_thw=torch.tensor([[1, rows, columns]]),
    )
    rotary = vlm.model.language_model.rotary_emb
    frequencies = len(rotary.inv_freq)
    numbered = torch.arange(3.0).reshape(3, 1, 1, 1).repeat(1, 1, 1, frequencies)
    chosen = rotary.recomposition_frequencies(numbered)[0, 0, :frequencies].long()
    places: Tensor = axes[chosen, 0].T.contiguous()
    return places
