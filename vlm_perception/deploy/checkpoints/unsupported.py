# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Well-known models that are not exported: why, and which published one does the same work."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import DECODERS, DUAL_FAMILIES, LANGUAGE_FAMILIES

# Language models that are exported, for a remedy of about the same size.
SMOL_500M = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
ONEVISION_1B = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
SMOL_2B = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
LLAVA_7B = "llava-hf/llava-1.5-7b-hf"
QWEN3_8B = "Qwen/Qwen3-VL-8B-Instruct"
# A dual encoder.
SIGLIP2 = "google/siglip2-base-patch16-224"

_REMOTE = "its code is not in transformers, and code that comes with a checkpoint is not run"
_CROSS = "its decoder reads images by cross-attention, which the exported decoders do not have"
_TOWER_ONLY = "it is a vision tower without the text tower that labels are embedded with"
_DETECTOR = "it gives boxes or masks for a text instead of embeddings"


@dataclass(frozen=True)
class Unsupported:
    """A class of models that is not exported."""

    why: str
    instead: str
    """Id of a published model on the hub that is exported."""


# By the part of a bundle, and by model_type in config.json.
UNSUPPORTED = {
    "vlm": {
        "qwen3_vl_moe": Unsupported("its decoder is a mixture of experts", QWEN3_8B),
        "internvl_chat": Unsupported(_REMOTE, "OpenGVLab/InternVL3-1B-hf"),
        "paligemma": Unsupported(
            "its image tokens see the question, so that nothing can be read before it is asked",
            SMOL_2B,
        ),
        "gemma3": Unsupported(
            "its image tokens see each other in the decoder, whose layers have two kinds of rotary "
            "embedding",
            SMOL_2B,
        ),
        "gemma3n": Unsupported(
            "its vision tower is made of convolutions, and its decoder shares keys and values "
            "between layers",
            SMOL_2B,
        ),
        "lfm2_vl": Unsupported(
            "its decoder is half made of convolutions, whose state is no KV cache", SMOL_500M
        ),
        "fast_vlm": Unsupported("its vision tower (FastViTHD) is made of convolutions", SMOL_500M),
        "llava_qwen2": Unsupported(_REMOTE, SMOL_500M),
        "llava-qwen2": Unsupported(_REMOTE, ONEVISION_1B),
        "llava_llama": Unsupported(_REMOTE, SMOL_2B),
        "vila": Unsupported(_REMOTE, SMOL_2B),
        "tinyllava": Unsupported(_REMOTE, ONEVISION_1B),
        "mobilevlm": Unsupported(_REMOTE, SMOL_2B),
        "moondream1": Unsupported(_REMOTE, SMOL_2B),
        "minicpmv": Unsupported(_REMOTE, LLAVA_7B),
        "phi3_v": Unsupported(_REMOTE, SMOL_2B),
        "multi_modality": Unsupported(_REMOTE, SMOL_2B),
        "deepseek_vl": Unsupported("its connector (an aligner) is not exported", SMOL_2B),
        "florence2": Unsupported(
            "it is an encoder-decoder, in which no question can go on from an image that was read",
            SMOL_500M,
        ),
        "kosmos-2": Unsupported(
            "it reads images through a resampler and answers with coordinates as tokens", SMOL_2B
        ),
        "llava_next": Unsupported("it cuts images into tiles of any layout", LLAVA_7B),
        "vipllava": Unsupported("it reads several layers of its tower through a norm", LLAVA_7B),
        "idefics2": Unsupported(
            "it reads images through a resampler", "HuggingFaceM4/Idefics3-8B-Llama3"
        ),
        "mllama": Unsupported(_CROSS, LLAVA_7B),
        "blip-2": Unsupported("it reads images through a resampler (Q-Former)", SMOL_2B),
        "instructblip": Unsupported("it reads images through a resampler (Q-Former)", LLAVA_7B),
    },
    "dual": {
        "siglip_vision_model": Unsupported(_TOWER_ONLY, SIGLIP2),
        "siglip2_vision_model": Unsupported(_TOWER_ONLY, SIGLIP2),
        "clip_vision_model": Unsupported(_TOWER_ONLY, SIGLIP2),
        "dinov2": Unsupported(_TOWER_ONLY, SIGLIP2),
        "vit": Unsupported(_TOWER_ONLY, SIGLIP2),
        "chinese_clip": Unsupported("its text tower is a BERT", SIGLIP2),
        "altclip": Unsupported("its text tower is a RoBERTa", SIGLIP2),
        "align": Unsupported("its vision tower is made of convolutions", SIGLIP2),
        "clipseg": Unsupported(_DETECTOR, SIGLIP2),
        "owlvit": Unsupported(_DETECTOR, SIGLIP2),
        "owlv2": Unsupported(_DETECTOR, SIGLIP2),
        "grounding-dino": Unsupported(_DETECTOR, SIGLIP2),
        "blip": Unsupported(
            "it gives no embedding of a text alone that labels could have", SIGLIP2
        ),
        "mobileclip": Unsupported(_REMOTE, SIGLIP2),
        "jina_clip": Unsupported(_REMOTE, SIGLIP2),
    },
}
_SERVED = (
    ". A server that runs the model, such as vLLM, can be asked instead: language:=served of "
    "language_reasoner"
)
_TAKEN = {
    "dual": ("an encoder of images and texts", tuple(DUAL_FAMILIES), SIGLIP2),
    "vlm": (
        f"a language model that sees images, with a decoder of {' or '.join(DECODERS)}",
        tuple(LANGUAGE_FAMILIES),
        SMOL_2B,
    ),
}


def require_supported(model: str, part: str, kind: str, elsewhere: str) -> None:
    """Refuse a model of a class that is not exported as this part of a bundle.

    Args:
        model: its id or directory.
        part: `dual` or `vlm`.
        kind: its `model_type`.
        elsewhere: what to do with a model that is exported as the other part.

    Raises:
        ExportError: the class is not exported; the message says why and what to use.
    """
    what, families, instead = _TAKEN[part]
    if kind in families:
        return
    wanted = f"{part} takes {what} ({', '.join(families)})"
    known = UNSUPPORTED[part].get(kind)
    if known is not None:
        raise ExportError(
            f"{model} is a {kind} model, which is not exported: {known.why}; {known.instead} is, "
            f"and {wanted}{_SERVED if part == 'vlm' else ''}"
        )
    if any(kind in others for _, others, _ in _TAKEN.values()):
        raise ExportError(f"{model} is a {kind} model, and {wanted}; {elsewhere}")
    raise ExportError(f"{model} is a {kind} model, and {wanted}; {instead} is one")
