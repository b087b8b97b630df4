# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the manifest says of a checkpoint: image, text tower, language model, origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
import transformers
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import DECODER_GRAPH, PROJECTOR_GRAPH
from vlm_perception.bundle.manifest import LanguageSpec, MadeBy, TemporalSpec, TextSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.modeling.temporal_attention import TemporalAttention

EMBEDDINGS_NAME = "token_embeddings.npy"


def feature_selection(source: Checkpoint) -> tuple[list[int], bool]:
    """Which hidden states the projector reads, and whether without the class token.

    States are counted from the start: the language model's own tower may have fewer layers.

    Raises:
        ExportError: they are not those of the patches, or the tower has too few layers.
    """
    if source.vlm is None:
        return [-1], True
    config = source.vlm.config
    # Idefics3 has no choice: it reads the last.
    chosen = getattr(config, "vision_feature_layer", -1)
    drop = getattr(config, "vision_feature_select_strategy", "full") == "default"
    if drop and source.family == "siglip":
        raise ExportError(
            "vlm/ selects features with the strategy `default`, which drops the first patch of a "
            "tower without class token; set vision_feature_select_strategy to `full` and train so"
        )
    if not drop and source.family == "clip":
        raise ExportError(
            "vlm/ reads the class token as well (vision_feature_select_strategy `full`), which "
            "has no place in the image; only `default` is supported with a CLIP tower"
        )
    states = config.vision_config.num_hidden_layers + 1
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    most = source.dual.config.vision_config.num_hidden_layers
    if not all(-states <= layer < states and layer % states <= most for layer in layers):
        raise ExportError(
            f"vlm/ reads the hidden states {layers} of a tower with {states - 1} layers, and the "
            f"tower that is exported has {most}"
        )
    return [layer % states for layer in layers], drop


def text_spec(source: Checkpoint, tokenizer: str, length: int) -> TextSpec:
    """The text tower.

    Raises:
        ExportError: the tokenizer lacks a token that the tower needs.
    """
    pad = source.dual_tokenizer.pad_token_id
    if pad is None:
        pad = source.dual.config.text_config.pad_token_id
    if pad is None:
        raise ExportError("dual/ names no padding token, neither in the tokenizer nor the config")
    siglip = source.family == "siglip"
    end = source.dual.config.text_config.eos_token_id
    if not siglip and end not in source.dual_tokenizer("text")["input_ids"]:
        raise ExportError(
            f"dual/ reads a text at its end token {end}, which its tokenizer does not add; "
            "set the tokenizer's post-processor"
        )
    return TextSpec(
        tokenizer=tokenizer,
        length=length,
        pad_token_id=pad,
        score="sigmoid" if siglip else "softmax",
        logit_scale=float(source.dual.logit_scale.exp()),
        logit_bias=float(source.dual.logit_bias) if siglip else 0.0,
    )


def language_spec(
    source: Checkpoint, spec: BundleSpec, tokenizer: str, golden: dict[str, NDArray[Any]]
) -> LanguageSpec:
    """The language model.

    Raises:
        ExportError: the checkpoint names no end token.
    """
    assert source.vlm is not None
    assert source.vlm_tokenizer is not None
    config = source.vlm.config.text_config
    stops = source.vlm.generation_config.eos_token_id
    stops = source.vlm_tokenizer.eos_token_id if stops is None else stops
    if stops is None:
        raise ExportError("vlm/ names no end token, neither in generation_config nor the tokenizer")
    layers, pair, _, heads, _, head_dim = golden[f"{DECODER_GRAPH}/in/past"].shape
    image_tokens = golden[f"{PROJECTOR_GRAPH}/out/embeds"].shape[1]
    return LanguageSpec(
        tokenizer=tokenizer,
        embeddings=EMBEDDINGS_NAME,
        prompt=spec.caption.template,
        answer_separator=spec.caption.answer_separator,
        caption_prompt=spec.caption.prompt,
        stop_token_ids=tuple(stops) if isinstance(stops, Sequence) else (stops,),
        width=config.hidden_size,
        layers=layers,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        image_tokens=image_tokens,
        max_images=1,
        kv_bytes_per_token=layers * pair * heads * head_dim * 4,
    )


def temporal_spec(module: TemporalAttention | None) -> TemporalSpec | None:
    """The temporal module, if there is one."""
    if module is None:
        return None
    config = module.config
    return TemporalSpec(
        slots=config.slots,
        event_width=config.event_width,
        drift_unit=config.drift_unit,
        readouts=config.readouts,
    )


def made_by(source: Checkpoint) -> MadeBy:
    """Where the weights come from and what exported them."""
    return MadeBy(
        command="vlm-perception export",
        checkpoint=source.path.resolve().name,
        weights=source.weights,
        versions={
            "onnx": onnx.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )
