# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Small random checkpoints of the true transformers classes, for tests of export and runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
)

SENTENCES = [
    "question: describe the scene answer: a red car stands left of a truck at night",
    "question: what is the weather answer: clear rain fog",
    "question: what is the state of the traffic light answer: red yellow green none",
    "question: is there a pedestrian on the road answer: yes no",
    "two cars and a bus drive on a wet street, a cyclist waits at the crosswalk",
]
LABELS = ["car", "truck", "pedestrian", "red traffic light"]
QUESTIONS = [
    {"name": "weather", "question": "what is the weather", "choices": ["clear", "rain", "fog"]},
    {
        "name": "light",
        "question": "what is the state of the traffic light",
        "choices": ["red", "yellow", "green", "none"],
    },
    {"name": "pedestrian", "question": "is there a pedestrian", "choices": ["yes", "no"]},
]


def make_checkpoint(
    path: Path, *, family: str = "siglip", language: bool = True, seed: int = 0
) -> Path:
    """Write dual/, vlm/ and bundle.yaml with random weights that share one vision tower."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    dual = _siglip(len(tokenizer)) if family == "siglip" else _clip(tokenizer)
    _randomise(dual)
    processor = image_processor(family)
    for part in (dual, tokenizer, processor):
        part.save_pretrained(path / "dual")
    if language:
        vlm = _llava(dual, tokenizer, family)
        for part in (vlm, tokenizer, processor):
            part.save_pretrained(path / "vlm")
    # transformers' CLIP takes images of its own square only.
    write_spec(path, **({} if family == "siglip" else {"geometry": None}))
    (path / "MODEL_CARD.md").write_text("# Random weights, for tests\n", encoding="utf-8")
    return path


def image_processor(family: str) -> Any:
    """The processor of a tower for 48x48 pixels, with the family's own settings."""
    square = {"height": 48, "width": 48}
    if family == "siglip":
        return SiglipImageProcessorPil(size=square)
    return CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=square)


def write_spec(path: Path, **changes: Any) -> None:
    """Write bundle.yaml, with changes on its upper level."""
    spec = {
        "name": "random-nano",
        "geometry": {"width": 64, "height": 36},
        "vocabulary": {
            "labels": [{"label": label} for label in LABELS],
            "templates": ["a {label}", "there is a {label} on the road"],
            "threshold": 0.4,
            "region_threshold": 0.4,
        },
        "caption": {"template": "<bos>{image}question: {text} answer:"},
        "questions": QUESTIONS,
        "licences": {"weights": "Apache-2.0"},
    }
    if not (path / "vlm").is_dir():
        spec["questions"] = []
    (path / "bundle.yaml").write_text(yaml.safe_dump(spec | changes), encoding="utf-8")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.token_to_id("<eos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<image>"],
    )


def _siglip(vocabulary: int) -> SiglipModel:
    # 144 positions of a 48x48 image; the bundle's 64x36 has as many patches of 4.
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    config = SiglipConfig(
        text_config={
            **shape,
            "num_hidden_layers": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": 24,
            "projection_size": 48,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={**shape, "num_hidden_layers": 3, "image_size": 48, "patch_size": 4},
    )
    return SiglipModel(config)


def _clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={
            **shape,
            **ids,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
        },
        vision_config={**shape, "num_hidden_layers": 3, "image_size": 48, "patch_size": 4},
        projection_dim=32,
    )
    return CLIPModel(config)


def _llava(
    dual: Any,
    tokenizer: PreTrainedTokenizerFast,
    family: str,
) -> LlavaForConditionalGeneration:
    tower = SiglipVisionConfig if family == "siglip" else CLIPVisionConfig
    config = LlavaConfig(
        vision_config=tower(**dual.config.vision_config.to_dict()),
        text_config=LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1 if family == "siglip" else -2,
        vision_feature_select_strategy="full" if family == "siglip" else "default",
        image_seq_length=144,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    _randomise(model)
    model.model.vision_tower.load_state_dict(dual.vision_model.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _randomise(model: torch.nn.Module) -> None:
    """Large random weights: fresh ones give outputs so alike that faults would not show."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 1.5 / weight[0].numel() ** 0.5)
            elif "logit" not in name:
                weight.copy_(0.2 * torch.randn_like(weight))
