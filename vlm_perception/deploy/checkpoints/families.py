# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The families of checkpoints that can be exported, and all in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    Idefics3ForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Siglip2Model,
    SiglipModel,
    SmolVLMForConditionalGeneration,
)

from vlm_perception.deploy.checkpoints.naflex import at_one_resolution
from vlm_perception.modeling.projectors import ProjectorGraph, ShuffleProjectorGraph

# Modules and configurations of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class DualFamily:
    """A dual encoder; `kind` is the layout of its towers, `clip` or `siglip`."""

    model_class: Model
    kind: str
    convert: Callable[[Model], Model] = lambda model: model
    """Makes a model of that layout of what was loaded."""


@dataclass(frozen=True)
class LanguageFamily:
    """A language model that reads the tokens of a vision tower."""

    model_class: Model
    tower: str
    """Name of the vision tower in `model.model`."""
    decoder: str
    """Name of the decoder there."""
    kinds: Mapping[str, str]
    """Kind of the dual encoder that has the same tower, by the tower's model type."""
    projector: Callable[[Model, Model, tuple[int, int]], nn.Module]
    """Projector of (`model.model`, the tower that is exported, columns and rows of its grid)."""
    features: Callable[[Model, Tensor], Tensor]
    """What the decoder reads, [tokens, W], of (the model, an image [1, 3, H, W]), by transformers'
    own code."""
    tiles: bool = False
    """Its own processor cuts images into tiles: how to fit a whole image in, dual/ says."""
    needs_grid: bool = False
    """The projector reads the tokens as a grid: pruning them before it is impossible."""


def _single_tokens(model: Model, _tower: Model, _grid: tuple[int, int]) -> nn.Module:
    return ProjectorGraph(model.multi_modal_projector)


def _single_tokens_and_newline(model: Model, _tower: Model, _grid: tuple[int, int]) -> nn.Module:
    return ProjectorGraph(model.multi_modal_projector, model.image_newline)


def _shuffled_tokens(model: Model, tower: Model, grid: tuple[int, int]) -> nn.Module:
    return ShuffleProjectorGraph(model.connector, tower.post_layernorm, grid)


def _features(model: Model, pixels: Tensor) -> Tensor:
    features: Tensor = model.get_image_features(pixel_values=pixels).pooler_output[0]
    return features


def _features_of_one_tile(model: Model, pixels: Tensor) -> Tensor:
    # transformers cuts an image into tiles only where it is the only one of its prompt.
    several = {
        "image_sizes": torch.tensor([pixels.shape[2:]]),
        "batch_num_images": torch.tensor([2]),
    }
    features: Tensor = model.get_image_features(pixel_values=pixels, **several).pooler_output[0]
    return features


def _features_of_tiles(model: Model, pixels: Tensor) -> Tensor:
    return _features(model, pixels[:, None])


_LLAVA_KINDS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}

# By model_type in config.json. SigLIP 2 with a fixed resolution says `siglip`; `siglip2` is NaFlex.
DUAL_FAMILIES = {
    "clip": DualFamily(CLIPModel, "clip"),
    "siglip": DualFamily(SiglipModel, "siglip"),
    "siglip2": DualFamily(Siglip2Model, "siglip", at_one_resolution),
}
# An image is one tile, whatever its shape: no family's way to cut it into several is exported.
LANGUAGE_FAMILIES = {
    "llava": LanguageFamily(
        LlavaForConditionalGeneration,
        tower="vision_tower",
        decoder="language_model",
        kinds=_LLAVA_KINDS,
        projector=_single_tokens,
        features=_features,
    ),
    # As transformers treats each of several images: the tile's tokens and one newline.
    "llava_onevision": LanguageFamily(
        LlavaOnevisionForConditionalGeneration,
        tower="vision_tower",
        decoder="language_model",
        kinds=_LLAVA_KINDS,
        projector=_single_tokens_and_newline,
        features=_features_of_one_tile,
        tiles=True,
    ),
    # As transformers treats an image with do_image_splitting off.
    "idefics3": LanguageFamily(
        Idefics3ForConditionalGeneration,
        tower="vision_model",
        decoder="text_model",
        kinds={"idefics3_vision": "siglip"},
        projector=_shuffled_tokens,
        features=_features_of_tiles,
        tiles=True,
        needs_grid=True,
    ),
    "smolvlm": LanguageFamily(
        SmolVLMForConditionalGeneration,
        tower="vision_model",
        decoder="text_model",
        kinds={"smolvlm_vision": "siglip"},
        projector=_shuffled_tokens,
        features=_features_of_tiles,
        tiles=True,
        needs_grid=True,
    ),
}
# They differ in the biases of query, key and value only, which the modules hold themselves.
DECODERS = ("llama", "qwen2")
# Kinds of rotary embedding whose frequencies do not change with the length of the text.
STATIC_ROTARY = ("default", "linear", "llama3")
