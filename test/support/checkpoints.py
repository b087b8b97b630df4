# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Small random checkpoints of the true transformers classes, for tests of export and runtime."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.onnx._internal.exporter._registration import onnxscript_apis as torchlib
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaProcessor,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

# The exporter would parse the sources of all of onnxscript's operators again for each graph, which
# is a sixth of what a small export takes.
torchlib.get_torchlib_ops = functools.cache(torchlib.get_torchlib_ops)

TILE_TOKENS = (
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
"""What Idefics3's processor puts between tiles."""
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


DUAL_MODELS = {
    "siglip": SiglipModel,
    "siglip2": Siglip2Model,
    "clip": CLIPModel,
    "metaclip_2": MetaClip2Model,
}
LANGUAGE_MODELS = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_onevision": (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    "internvl": (InternVLConfig, InternVLForConditionalGeneration),
}
DECODERS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 24}),
    "gemma": (GemmaConfig, {"head_dim": 24}),
    # As published the layers alternate between all tokens and a window of them.
    "gemma2": (
        Gemma2Config,
        {
            "head_dim": 24,
            "sliding_window": 256,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 5.0,
        },
    ),
}
TOWER_SHAPE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size"),
)


def make_checkpoint(
    path: Path,
    *,
    family: str = "siglip",
    language: str | None = "llava",
    decoder: str = "llama",
    dual_tokenizer: Any = None,
    language_tokenizer: Any = None,
    text_length: int = 24,
    seed: int = 0,
) -> Path:
    """Write dual/, vlm/ and bundle.yaml with random weights that share one vision tower."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(TILE_TOKENS if language in ("idefics3", "smolvlm") else ())
    dual_tokenizer = dual_tokenizer or (make_clip_tokenizer() if family == "clip" else tokenizer)
    dual = _dual(family, dual_tokenizer, text_length)
    processor = image_processor(family)
    for part in (dual, dual_tokenizer, processor):
        part.save_pretrained(path / "dual")
    if language is not None:
        tokenizer = language_tokenizer or tokenizer
        vlm = _language_model(dual, tokenizer, family, language, decoder)
        for part in (vlm, tokenizer, language_processor(language, processor, tokenizer)):
            part.save_pretrained(path / "vlm")
    if language == "internvl":
        # As published: one token more than the model knows.
        more = PreTrainedTokenizerFast.from_pretrained(path / "vlm")
        more.add_tokens(["<video>"], special_tokens=True)
        more.save_pretrained(path / "vlm")
    if language == "idefics3":
        # As the first SmolVLMs say; transformers itself writes `idefics3_vision`.
        set_config(path / "vlm/config.json", vision_config__model_type="idefics3")
    # transformers' CLIP takes images of its own square only, and Idefics3 joins those of a square.
    square = family in ("clip", "metaclip_2") or language in ("idefics3", "smolvlm")
    write_spec(path, **({"geometry": None} if square else {}))
    (path / "MODEL_CARD.md").write_text("# Random weights, for tests\n", encoding="utf-8")
    return path


def pair_up(path: Path, dual: Path, vlm: Path, **changes: Any) -> Path:
    """Write a checkpoint of the dual encoder of one and the language model of another."""
    path.mkdir()
    (path / "dual").symlink_to(dual / "dual")
    (path / "vlm").symlink_to(vlm / "vlm")
    shutil.copy(dual / "MODEL_CARD.md", path)
    write_spec(path, **changes)
    return path


def image_processor(family: str) -> Any:
    """The processor of a tower for 48x48 pixels, with the family's own settings."""
    square = {"height": 48, "width": 48}
    if family == "siglip":
        return SiglipImageProcessorPil(size=square)
    if family == "siglip2":
        return Siglip2ImageProcessorPil(patch_size=4, max_num_patches=144)
    return CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=square)


def language_processor(language: str, processor: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The processor of the same tower, as it is saved with the language model."""
    scale = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    if language == "llava_onevision":
        return LlavaOnevisionImageProcessorPil(size={"height": 48, "width": 48}, **scale)
    if language == "idefics3":
        return Idefics3ImageProcessorPil(max_image_size={"longest_edge": 48}, **scale)
    if language == "smolvlm":
        return SmolVLMImageProcessorPil(max_image_size={"longest_edge": 48}, **scale)
    if language == "internvl":
        return GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, **scale)
    return LlavaProcessor(processor, tokenizer, patch_size=4)


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


def set_config(path: Path, **changes: Any) -> None:
    """Change a JSON file; `part__key` is a key of a part."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parts, key = name.split("__")
        place = content
        for part in parts:
            place = place[part]
        place[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def save_as(directory: Path, dtype: torch.dtype) -> None:
    """Store a checkpoint's weights in another type."""
    file = directory / "model.safetensors"
    weights = {name: weight.to(dtype) for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def make_tokenizer(special: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences, with some special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>", *special],
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
        additional_special_tokens=["<image>", *special],
    )


def make_clip_tokenizer() -> CLIPTokenizer:
    """As published with CLIP: lower case, bytes with and without `</w>`, the end token last."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in sorted({word for text in (*SENTENCES, *LABELS) for word in text.split()}):
        for end in range(1, len(word)):
            last = word[end] + ("</w>" if end == len(word) - 1 else "")
            merges.append((word[:end], last))
    pieces += [first + second for first, second in dict.fromkeys(merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))},
        merges=list(dict.fromkeys(merges)),
        model_max_length=77,
    )


def make_siglip2_tokenizer() -> GemmaTokenizer:
    """As published with SigLIP 2: of Gemma's class, which does not lower texts, with an end."""
    words = [
        f"\u2581{word}" for label in (*LABELS, "there is on the road") for word in label.split()
    ]
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [first + second for first, second in merges]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    return GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=list(merges),
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
    )


def _dual(family: str, tokenizer: Any, text_length: int) -> Any:
    # 144 positions of a 48x48 image; the bundle's 64x36 has as many patches of 4.
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    text = {
        **shape,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": text_length,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**shape, "num_hidden_layers": 3, "patch_size": 4}
    if family == "siglip2":
        config = Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 144})
    elif family == "siglip":
        config = SiglipConfig(text_config=text, vision_config={**vision, "image_size": 48})
    elif family == "metaclip_2":
        # Its end token is XLM-RoBERTa's, which is 2, as that of the tests' tokenizer.
        vision["image_size"] = 48
        config = MetaClip2Config(text_config=text, vision_config=vision, projection_dim=32)
    else:
        vision["image_size"] = 48
        # As in all of OpenAI's: none is an id of the tokenizer, and 2 means the highest.
        text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = DUAL_MODELS[family](config)
    randomise(model)
    return model


def _language_model(
    dual: Any, tokenizer: PreTrainedTokenizerFast, family: str, language: str, decoder: str
) -> Any:
    text_class, own_shape = DECODERS[decoder]
    text = text_class(
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
        **own_shape,
    )
    if language == "internvl":
        # As published: it differs from the default beyond the decoder's positions only.
        text.rope_parameters |= {"rope_type": "dynamic", "factor": 2.0}
    vision = dual.config.vision_config.to_dict()
    config_class, model_class = LANGUAGE_MODELS[language]
    own: dict[str, Any] = {"scale_factor": 2}
    if language.startswith("llava"):
        clip = family == "clip"
        own = {
            "vision_feature_layer": -2 if clip else -1,
            "vision_feature_select_strategy": "default" if clip else "full",
        }
    elif language != "internvl":
        del vision["model_type"]
    if language == "internvl":
        # A tower that no dual encoder has.
        vision = {key: vision[key] for key in TOWER_SHAPE} | {"attention_bias": True}
        own = {}
    if language == "llava_onevision":
        # As published: the tower without its last layer and its head, whose features are read.
        vision |= {"num_hidden_layers": vision["num_hidden_layers"] - 1, "vision_use_head": False}
        own["image_grid_pinpoints"] = [[48, 48]]
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = config_class(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_id=image,
        tie_word_embeddings=True,
        **own,
    )
    model = model_class(config)
    randomise(model)
    if language != "internvl":
        parts = model.model
        tower = parts.vision_tower if language.startswith("llava") else parts.vision_model
        weights = dual.vision_model.state_dict()
        tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def randomise(model: torch.nn.Module) -> None:
    """Large random weights: fresh ones give outputs so alike that faults would not show."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 1.5 / weight[0].numel() ** 0.5)
            elif "logit" not in name:
                weight.copy_(0.2 * torch.randn_like(weight))
