# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model that is trained: around a finished tower, with a decoder and a bridge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.deploy.checkpoints.families import DualFamily
from vlm_perception.deploy.checkpoints.load import load_dual
from vlm_perception.modeling.bridges import begin_with, build_bridge
from vlm_perception.modeling.pixel_scaling import Normalisation, read_normalisation
from vlm_perception.training.distillation.recipe import DistillationError, Language
from vlm_perception.training.locations import LOCATIONS, grow, with_locations
from vlm_perception.training.roadworld_words import IMAGE_TOKEN, PROMPT, build_tokenizer

# Modules of transformers carry no types.
Model = Any
DECODERS = {"llama": LlamaConfig, "qwen2": Qwen2Config}


@dataclass(frozen=True)
class Reader:
    """A language model around a tower, ready to be trained."""

    family: DualFamily
    tower: Model
    """The vision tower, of the dual encoder."""
    scaling: Normalisation
    grid: tuple[int, int]
    """Columns and rows of its patches."""
    model: LlavaForConditionalGeneration
    bridge: nn.Module
    tokenizer: PreTrainedTokenizerFast
    prompt: str
    """With `<image>` and `{text}`."""

    @property
    def before(self) -> list[int]:
        """Tokens of the prompt before the image."""
        text = self.prompt.split(IMAGE_TOKEN)[0]
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids


def build_reader(
    language: Language,
    dual: Path,
    start: Path | None,
    tokenizer: Path | None,
    size: tuple[int, int],
) -> Reader:
    """Put tower, bridge and decoder together.

    Args:
        language: what the recipe says.
        dual: directory of the dual encoder.
        start: directory of a checkpoint to go on from.
        tokenizer: directory of a tokenizer; None: the road world's.
        size: width and height of the tower's images.

    Raises:
        DistillationError: the parts do not fit each other.
        ExportError: a checkpoint cannot be read, or the bridge does not fit.
    """
    family, whole = load_dual(dual)
    tower, patch = whole.vision_model, whole.config.vision_config.patch_size
    if size[0] % patch or size[1] % patch:
        raise DistillationError(
            f"images of {size[0]}x{size[1]} pixels are not whole patches of {patch} pixels"
        )
    if start is not None:
        words = PreTrainedTokenizerFast.from_pretrained(start / "vlm")
        model = LlavaForConditionalGeneration.from_pretrained(start / "vlm", dtype="float32")
    else:
        words = build_tokenizer() if tokenizer is None else _words(tokenizer)
        model = _fresh(language, whole, words)
    if "locations" in language.losses:
        words = _with_places(words, model)
    _take_tower(model, tower)
    grid = (size[0] // patch, size[1] // patch)
    projector = model.model.multi_modal_projector
    read = int(projector.linear_2.out_features)
    bridge = build_bridge(language.bridge, tower=tower, projector=projector, read=read, grid=grid)
    if start is not None:
        begin_with(bridge, projector)
    prompt = PROMPT.replace("<bos>", words.bos_token or "")
    return Reader(family, tower, read_normalisation(dual), grid, model, bridge, words, prompt)


def _words(folder: Path) -> PreTrainedTokenizerFast:
    try:
        words: Model = AutoTokenizer.from_pretrained(folder)
    # transformers raises many kinds for what is no tokenizer.
    except Exception as error:
        raise DistillationError(f"{folder} holds no tokenizer: {error}") from error
    if words.eos_token_id is None:
        raise DistillationError(
            f"the tokenizer of {folder} has no end token, which ends an answer; set its eos_token"
        )
    if IMAGE_TOKEN not in words.get_vocab():
        words.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return words  # type: ignore[no-any-return]


def _fresh(
    language: Language, whole: Model, words: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights around a tower."""
    assert language.decoder is not None
    settings = dict(language.decoder)
    kind = settings.pop("model_type", None)
    if kind not in DECODERS:
        raise DistillationError(
            f"the decoder is of model_type {kind}; choose one of: {', '.join(DECODERS)}"
        )
    vision = whole.config.vision_config.to_dict()
    clip = whole.config.model_type == "clip"
    own = {
        "vocab_size": len(words),
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    try:
        text = DECODERS[kind](**{"tie_word_embeddings": True, **settings, **own})
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=text.to_dict(),
                image_token_index=words.get_vocab()[IMAGE_TOKEN],
                vision_feature_layer=-2 if clip else -1,
                vision_feature_select_strategy="default" if clip else "full",
                tie_word_embeddings=text.tie_word_embeddings,
            )
        )
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DistillationError(f"transformers refuses the decoder: {error}") from error


def _with_places(
    words: PreTrainedTokenizerFast, model: LlavaForConditionalGeneration
) -> PreTrainedTokenizerFast:
    """The tokenizer with the tokens of locations, for which the model makes room."""
    if not words.get_vocab().keys() >= LOCATIONS:
        if len(words) != len(build_tokenizer()):
            raise DistillationError(
                "the loss locations writes boxes with tokens that the road world's tokenizer "
                "makes room for; set tokenizer: road-world, or leave the loss out"
            )
        words = with_locations(words)
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        raise DistillationError("the loss locations needs a decoder with tie_word_embeddings: true")
    grow(model, len(words))
    return words


def _take_tower(model: LlavaForConditionalGeneration, tower: Model) -> None:
    try:
        model.model.vision_tower.load_state_dict(tower.state_dict())
    except RuntimeError as error:
        raise VlmPerceptionError(
            f"the language model was made for another vision tower than the student's: {error}"
        ) from error
