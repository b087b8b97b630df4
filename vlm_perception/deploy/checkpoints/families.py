# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The families of checkpoints that can be exported, and all in which they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPModel,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    MetaClip2Model,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Siglip2Model,
    SiglipModel,
    SmolVLMForConditionalGeneration,
)

from vlm_perception.bundle.manifest import BoxFormatName
from vlm_perception.deploy.checkpoints.internvl import InternVLView, InternVLWords
from vlm_perception.deploy.checkpoints.qwen_vl import (
    QwenView,
    merged_patches,
    stacked_patches,
    token_places,
)
from vlm_perception.deploy.checkpoints.shared_tower import check_positions
from vlm_perception.deploy.checkpoints.views import Idefics3View, OnevisionView, View
from vlm_perception.modeling.projectors import (
    ProjectorGraph,
    ShuffleProjectorGraph,
    as_embeddings,
)
from vlm_perception.modeling.towers.clip import ClipText, ClipVision
from vlm_perception.modeling.towers.internvl import InternVision
from vlm_perception.modeling.towers.naflex import NaflexVision, at_one_resolution
from vlm_perception.modeling.towers.qwen_vl import Qwen2Vision, Qwen3Vision, Qwen25Vision
from vlm_perception.modeling.towers.siglip import SiglipText, SiglipVision
from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.modeling.towers.trunk import KnownTower
from vlm_perception.modeling.towers.vision_tower import VisionTower

# Modules and configurations of transformers carry no types.
Model = Any

# Decoders of families that take several; they differ in what the modules and the configuration hold
# themselves.
DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gemma2")


@dataclass(frozen=True)
class DualFamily:
    """A dual encoder, and what its towers are."""

    model_class: Model
    vision: type[VisionTower]
    text: type[TextTower]
    convert: Callable[[Model], Model] = lambda model: model
    """Makes a model that these towers read of what was loaded."""


@dataclass(frozen=True)
class LanguageFamily:
    """A language model that reads the tokens of a vision tower."""

    model_class: Model
    tower: str
    """Name of the vision tower in `model.model`."""
    decoder: str
    """Name of the decoder there."""
    projector: Callable[[Model, nn.Module, tuple[int, int]], nn.Module]
    """Projector of (`model.model`, last norm of the tower that it reads, columns and rows of its
    grid)."""
    features: Callable[[Model, Tensor], Tensor]
    """What the decoder reads, [tokens, W], of (the model, an image [1, 3, H, W]), by transformers'
    own code."""
    tiles: bool = False
    """Its own processor cuts images into tiles: how to fit a whole image in, dual/ says."""
    needs_grid: bool = False
    """The projector reads the tokens as a grid: pruning them before it is impossible."""
    processor: Model = None
    """What puts tokens around an image in code; none: nothing does, beside the chat template."""
    check_tower: Callable[[Model], None] = lambda tower: None
    """Refuses a vision tower that does not give what the dual encoder's does."""
    view: type[View] = View
    """How its own processor shows an image to its own tower."""
    decoders: tuple[str, ...] = DECODERS
    """By `model_type` in `text_config`."""
    places: Callable[[Model, tuple[int, int], int], Tensor] | None = None
    """Positions of tokens for the decoder's graph of (the model, columns and rows of the tower's
    grid, tokens before the image), where they are not simply counted."""
    locate: BoxFormatName | None = None
    """How it was trained to write boxes; None: its authors name no format that is known here."""


def _single_tokens(model: Model, _norm: nn.Module, _grid: tuple[int, int]) -> nn.Module:
    return as_embeddings(ProjectorGraph(model.multi_modal_projector), model.language_model)


def _single_tokens_and_newline(model: Model, _norm: nn.Module, _grid: tuple[int, int]) -> nn.Module:
    projector = ProjectorGraph(model.multi_modal_projector, model.image_newline)
    return as_embeddings(projector, model.language_model)


def _shuffled_tokens(model: Model, norm: nn.Module, grid: tuple[int, int]) -> nn.Module:
    connector = model.connector
    projector = ShuffleProjectorGraph(
        connector.modality_projection, connector.scale_factor, norm, grid
    )
    return as_embeddings(projector, model.text_model)


def _shuffled_patches(model: Model, norm: nn.Module, grid: tuple[int, int]) -> nn.Module:
    side = round(1 / model.config.downsample_ratio)
    # Of other layers than the last transformers takes what no norm has been over.
    last = norm if model.config.vision_feature_layer == -1 else nn.Identity()
    projector = ShuffleProjectorGraph(model.multi_modal_projector, side, last, grid)
    return as_embeddings(projector, model.language_model)


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


# By model_type in config.json. SigLIP 2 with a fixed resolution says `siglip`; `siglip2` is NaFlex.
DUAL_FAMILIES = {
    "clip": DualFamily(CLIPModel, ClipVision, ClipText),
    # A CLIP for texts in many languages.
    "metaclip_2": DualFamily(MetaClip2Model, ClipVision, ClipText),
    "siglip": DualFamily(SiglipModel, SiglipVision, SiglipText),
    "siglip2": DualFamily(Siglip2Model, NaflexVision, SiglipText, at_one_resolution),
}
# An image is one tile, whatever its shape: no family's way to cut it into several is exported.
LANGUAGE_FAMILIES = {
    "llava": LanguageFamily(
        LlavaForConditionalGeneration,
        tower="vision_tower",
        decoder="language_model",
        projector=_single_tokens,
        features=_features,
    ),
    # As transformers treats each of several images: the tile's tokens and one newline.
    "llava_onevision": LanguageFamily(
        LlavaOnevisionForConditionalGeneration,
        tower="vision_tower",
        decoder="language_model",
        projector=_single_tokens_and_newline,
        features=_features_of_one_tile,
        tiles=True,
        view=OnevisionView,
    ),
    # As transformers treats an image with do_image_splitting off.
    "idefics3": LanguageFamily(
        Idefics3ForConditionalGeneration,
        tower="vision_model",
        decoder="text_model",
        projector=_shuffled_tokens,
        features=_features_of_tiles,
        tiles=True,
        needs_grid=True,
        processor=Idefics3Processor,
        check_tower=check_positions,
        view=Idefics3View,
    ),
    # Its own processor words a single image as that of Idefics3, and needs torchvision for videos.
    "smolvlm": LanguageFamily(
        SmolVLMForConditionalGeneration,
        tower="vision_model",
        decoder="text_model",
        projector=_shuffled_tokens,
        features=_features_of_tiles,
        tiles=True,
        needs_grid=True,
        processor=Idefics3Processor,
        check_tower=check_positions,
        view=Idefics3View,
    ),
    # As transformers treats an image with crop_to_patches off.
    "internvl": LanguageFamily(
        InternVLForConditionalGeneration,
        tower="vision_tower",
        decoder="language_model",
        projector=_shuffled_patches,
        features=_features,
        tiles=True,
        needs_grid=True,
        processor=InternVLWords,
        view=InternVLView,
    ),
    # As transformers treats an image, at one size.
    "qwen2_vl": LanguageFamily(
        Qwen2VLForConditionalGeneration,
        tower="visual",
        decoder="language_model",
        projector=merged_patches,
        features=_features,
        needs_grid=True,
        view=QwenView,
        decoders=("qwen2_vl_text",),
        places=token_places,
        locate="qwen2-vl",
    ),
    "qwen2_5_vl": LanguageFamily(
        Qwen2_5_VLForConditionalGeneration,
        tower="visual",
        decoder="language_model",
        projector=merged_patches,
        features=_features,
        needs_grid=True,
        view=QwenView,
        decoders=("qwen2_5_vl_text",),
        places=token_places,
        locate="qwen2.5-vl",
    ),
    "qwen3_vl": LanguageFamily(
        Qwen3VLForConditionalGeneration,
        tower="visual",
        decoder="language_model",
        projector=stacked_patches,
        features=_features,
        needs_grid=True,
        view=QwenView,
        decoders=("qwen3_vl_text",),
        places=token_places,
        locate="qwen3-vl",
    ),
}
_TOWERS: tuple[type[KnownTower], ...] = (
    *(ClipVision, SiglipVision, InternVision),
    *(Qwen2Vision, Qwen25Vision, Qwen3Vision),
)
# By what a language model's vision_config calls it.
LANGUAGE_TOWERS = {name: tower for tower in _TOWERS for name in sorted(tower.model_types)}
# Kinds of rotary embedding whose frequencies do not change with the length of the text; `dynamic`
# (InternVL's) only beyond max_position_embeddings, where a bundle ends.
STATIC_ROTARY = ("default", "linear", "llama3", "dynamic")
