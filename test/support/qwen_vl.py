# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Small random Qwen2-VL, Qwen2.5-VL and Qwen3-VL, laid out as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.checkpoints import SENTENCES, randomise
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2Tokenizer

SPECIAL = (
    "<|endoftext|>",
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
# As published with Qwen2-VL and Qwen2.5-VL, but for videos.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>"
    "system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content "
    "or 'image_url' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
_OLD_TEXT = {
    "max_window_layers": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "sliding_window": 64,
    "use_sliding_window": False,
}
_QWEN3_TEXT = {
    "head_dim": 24,
    "model_type": "qwen3_vl_text",
    "rope_scaling": {
        "mrope_interleaved": True,
        "mrope_section": [6, 3, 3],
        "rope_type": "default",
    },
}
_VISION = {
    "num_heads": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_OWN_VISION = {
    "qwen2_vl": {
        "depth": 2,
        "embed_dim": 48,
        "hidden_size": 64,
        "in_chans": 3,
        "mlp_ratio": 4,
        "spatial_patch_size": 4,
    },
    "qwen2_5_vl": {
        "depth": 3,
        "fullatt_block_indexes": [1],
        "hidden_act": "silu",
        "hidden_size": 48,
        "in_chans": 3,
        "intermediate_size": 96,
        "out_hidden_size": 64,
        "spatial_patch_size": 4,
        "tokens_per_second": 2,
        "window_size": 16,
    },
    "qwen3_vl": {
        "deepstack_visual_indexes": [0, 2],
        "depth": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 48,
        "in_channels": 3,
        "intermediate_size": 96,
        "model_type": "qwen3_vl",
        "num_position_embeddings": 36,
        "out_hidden_size": 64,
    },
}
_PROCESSOR = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}


def make_qwen(path: Path, kind: str) -> Path:
    """Write vlm/ with random weights in BF16; `kind` is its model_type."""
    torch.manual_seed(0)
    folder = path / "vlm"
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    image, video, end, text_end = map(
        tokenizer.convert_tokens_to_ids,
        ("<|image_pad|>", "<|video_pad|>", "<|im_end|>", "<|endoftext|>"),
    )
    config = _config(kind) | {"image_token_id": image, "video_token_id": video}
    place = config.get("text_config", config)
    place |= {"vocab_size": len(tokenizer) + 9, "bos_token_id": text_end, "eos_token_id": end}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [end, text_end], "do_sample": True})
    _write(folder / "preprocessor_config.json", _processor(kind))
    _write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    randomise(model)
    weights = {
        _published(kind, name): weight.to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _config(kind: str) -> dict[str, Any]:
    vision = {**_VISION, **_OWN_VISION[kind]}
    if kind != "qwen3_vl":
        return {"model_type": kind, **_TEXT, **_OLD_TEXT, "vision_config": vision}
    return {
        "model_type": kind,
        "text_config": {**_TEXT, **_QWEN3_TEXT},
        "vision_config": vision,
        "tie_word_embeddings": True,
    }


def _processor(kind: str) -> dict[str, Any]:
    if kind != "qwen3_vl":
        return {
            **_PROCESSOR,
            "min_pixels": 256,
            "max_pixels": 65536,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
        }
    return {
        **_PROCESSOR,
        "size": {"longest_edge": 65536, "shortest_edge": 512},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }


def _published(kind: str, name: str) -> str:
    """Those before Qwen3-VL were published when transformers had the decoder around the tower."""
    if kind != "qwen3_vl":
        name = name.removeprefix("model.") if name.startswith("model.visual") else name
        return name.replace("model.language_model.", "model.")
    return name


def _tokenizer() -> Qwen2Tokenizer:
    """Qwen's class, trained on a few sentences; control tokens are added, as published."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(SENTENCES, trainer)
    learned = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=[*map(tuple, learned["merges"])])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer
