# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the manifest says of a checkpoint: towers, language model, stored outputs, origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
import transformers

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    VISION_GRAPH,
)
from vlm_perception.bundle.manifest import (
    GoldenSpec,
    LanguageSpec,
    LocateSpec,
    MadeBy,
    TemporalSpec,
    TextSpec,
    VisionSpec,
)
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec
from vlm_perception.deploy.checkpoints.families import DualFamily
from vlm_perception.deploy.checkpoints.gather import read_sources
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.compression.precision_config import (
    PrecisionConfig,
    TowerPlan,
    fewest_input_bits,
)
from vlm_perception.deploy.export.input_geometry import Geometry
from vlm_perception.deploy.export.language_vision import LanguageVision
from vlm_perception.deploy.export.parts import Golden
from vlm_perception.deploy.export.vision import Vision
from vlm_perception.modeling.temporal_attention import TemporalAttention

EMBEDDINGS_NAME = "token_embeddings.npy"
GOLDEN_NAME = "golden.npz"
GOLDEN_ABSOLUTE = 1e-3
GOLDEN_RELATIVE = 1e-3
# ONNX Runtime and OpenVINO differ by 0.0001 on a quantized tower; another network by far more.
GOLDEN_COSINE = 0.99
# With fewer bits a number that falls on the other side of a border moves by a larger step, and all
# that follows with it: with inputs of 5 bits, tokens in FP32 and in FP16 differ by 0.02, in the
# worst of 16 images by 0.03.
GOLDEN_COSINE_FEW_BITS = 0.9


def vision_spec(source: Checkpoint, vision: Vision, golden: Golden) -> VisionSpec:
    """What the vision graph gives."""
    pooled, tokens = (golden[f"{VISION_GRAPH}/out/{name}"] for name in ("pooled", "tokens"))
    return VisionSpec(
        family=source.family.vision.name,
        tokens=tokens.shape[1],
        token_width=tokens.shape[2],
        embedding_width=pooled.shape[1],
        keep=vision.keep,
        head_steps=vision.head_steps,
    )


def text_spec(source: Checkpoint, tokenizer: str) -> TextSpec:
    """The text tower.

    Raises:
        ExportError: the tokenizer lacks a token that the tower needs.
    """
    return text_spec_of(source.family, source.dual, source.dual_tokenizer, tokenizer)


def text_spec_of(family: DualFamily, dual: Any, dual_tokenizer: Any, tokenizer: str) -> TextSpec:
    """The text tower of a dual encoder.

    Args:
        family: of the encoder.
        dual: the encoder.
        dual_tokenizer: its tokenizer.
        tokenizer: name of the file that the tokenizer is written to.

    Raises:
        ExportError: the tokenizer lacks a token that the tower needs.
    """
    config = dual.config.text_config
    pad = dual_tokenizer.pad_token_id
    if pad is None:
        pad = config.pad_token_id
    if pad is None:
        raise ExportError(
            "dual/ has no padding token, neither in its tokenizer nor in its config; set "
            "pad_token_id in dual/config.json"
        )
    tower, end = family.text, config.eos_token_id
    if tower.reads_end and end not in dual_tokenizer("text")["input_ids"]:
        raise ExportError(
            f"dual/ pools a text at its end token {end}, which its tokenizer does not add; set the "
            "tokenizer's post-processor"
        )
    return TextSpec(
        tokenizer=tokenizer,
        length=int(config.max_position_embeddings),
        pad_token_id=pad,
        score=tower.score,
        logit_scale=float(dual.logit_scale.exp()),
        logit_bias=tower.logit_bias(dual),
    )


def language_spec(
    source: Checkpoint,
    spec: BundleSpec,
    tokenizer: str,
    golden: Golden,
    own: LanguageVision | None,
    locate: LocateSpec | None,
) -> LanguageSpec:
    """The language model, with its own vision tower, if it has one.

    Raises:
        ExportError: the checkpoint names no end token.
    """
    assert source.vlm is not None
    config = source.vlm.config.text_config
    layers, pair, _, heads, _, head_dim = golden[f"{DECODER_GRAPH}/in/past"].shape
    _, image_tokens, read = golden[f"{PROJECTOR_GRAPH}/out/embeds"].shape
    tower = None
    if own is not None:
        tower = own.spec(golden[f"{LANGUAGE_VISION_GRAPH}/out/tokens"].shape)
    return LanguageSpec(
        tokenizer=tokenizer,
        embeddings=EMBEDDINGS_NAME,
        prompt=spec.caption.template,
        answer_separator=spec.caption.answer_separator,
        caption_prompt=spec.caption.prompt,
        stop_token_ids=stop_tokens(source),
        width=config.hidden_size,
        stacked=read // config.hidden_size - 1,
        layers=layers,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=config.vocab_size,
        max_positions=source.positions,
        image_tokens=image_tokens,
        max_images=1,
        kv_bytes_per_token=layers * pair * heads * head_dim * 4,
        tower=tower,
        locate=locate,
    )


def locate_spec(source: Checkpoint, spec: BundleSpec, geometry: Geometry) -> LocateSpec | None:
    """How the language model writes boxes, by bundle.yaml or by its family; None: not known."""
    assert source.vlm_family is not None
    name = spec.locate or source.vlm_family.locate
    if name is None:
        return None
    own = source.language_tower is not None
    return LocateSpec(format=name, whole=None if own else geometry.whole)


def stop_tokens(source: Checkpoint) -> tuple[int, ...]:
    """The tokens that end what the language model says.

    They are those of generation_config.json, else of config.json, else the tokenizer's.

    Raises:
        ExportError: none of them names one.
    """
    assert source.vlm is not None
    assert source.vlm_tokenizer is not None
    stops = source.vlm.generation_config.eos_token_id
    stops = source.vlm_tokenizer.eos_token_id if stops is None else stops
    if stops is None:
        raise ExportError(
            "vlm/ has no end token, neither in generation_config nor in its tokenizer; set "
            "eos_token_id in vlm/generation_config.json"
        )
    return tuple(stops) if isinstance(stops, Sequence) else (stops,)


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


def golden_spec(quantized: Sequence[str], config: PrecisionConfig | None) -> GoldenSpec:
    """The stored outputs, and how far an engine may be from those of each graph.

    Args:
        quantized: graphs that compute in INT8.
        config: of them; absent where there are none.
    """
    plans: dict[str, TowerPlan | None] = {}
    if config is not None:
        plans = {VISION_GRAPH: config, LANGUAGE_VISION_GRAPH: config.language_vision}
    return GoldenSpec(
        file=GOLDEN_NAME,
        absolute=GOLDEN_ABSOLUTE,
        relative=GOLDEN_RELATIVE,
        cosine={graph: _golden_cosine(plans.get(graph)) for graph in quantized},
    )


def _golden_cosine(plan: TowerPlan | None) -> float:
    few = plan is not None and fewest_input_bits(plan) < 8
    return GOLDEN_COSINE_FEW_BITS if few else GOLDEN_COSINE


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
        sources=read_sources(source.path),
    )
