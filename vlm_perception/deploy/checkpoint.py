# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the Hugging Face checkpoints that a bundle is made of, and trusts none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPModel, LlavaForConditionalGeneration, SiglipModel
from transformers.utils import logging as transformers_logging

from vlm_perception.bundle import file_sha256
from vlm_perception.deploy.errors import ExportError

DUAL_FAMILIES = {"siglip": SiglipModel, "clip": CLIPModel}
TOWER_FAMILIES = {"siglip_vision_model": "siglip", "clip_vision_model": "clip"}
DECODER_FAMILIES = ("llama",)
# Kinds of rotary embedding whose frequencies do not change with the length of the text.
STATIC_ROTARY = ("default", "linear", "llama3")

# Modules and configurations of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of a checkpoint's processor, for pixels of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Checkpoint:
    """A dual encoder and perhaps a language model, loaded in FP32 and ready to export."""

    path: Path
    family: str
    dual: Model
    dual_tokenizer: Model
    normalisation: Normalisation
    vlm: Model | None
    vlm_tokenizer: Model | None
    weights: dict[str, str]
    """Hash of each weight file, by its path in the directory."""


def load_checkpoint(path: Path, vision_tower: str) -> Checkpoint:
    """Load `dual/` and, where it is there, `vlm/`.

    Args:
        path: the directory that holds them.
        vision_tower: `same`, `dual` or `vlm`: whose vision tower is meant.

    Raises:
        ExportError: a directory, key or file is missing, foreign or damaged.
    """
    family = _family(path / "dual", DUAL_FAMILIES)
    dual = _load(DUAL_FAMILIES[family], path / "dual")
    vlm = None
    if (path / "vlm").is_dir():
        _family(path / "vlm", {"llava": LlavaForConditionalGeneration})
        vlm = _load(LlavaForConditionalGeneration, path / "vlm")
        _check_language(vlm, family)
        _share_tower(dual, vlm, vision_tower)
    return Checkpoint(
        path=path,
        family=family,
        dual=dual,
        dual_tokenizer=_load_tokenizer(path / "dual", dual),
        normalisation=_load_normalisation(path / "dual"),
        vlm=vlm,
        vlm_tokenizer=_load_tokenizer(path / "vlm", vlm) if vlm is not None else None,
        weights={
            str(file.relative_to(path)): file_sha256(file)
            for file in sorted(path.glob("*/*.safetensors"))
        },
    )


def round_to_half(model: Model) -> None:
    """Round every weight to what FP16 can hold, in place; larger numbers stay as they are."""
    with torch.no_grad():
        for weight in model.parameters():
            rounded = weight.half().float()
            if bool(torch.isfinite(rounded).all()):
                weight.copy_(rounded)


def _family(directory: Path, families: dict[str, Any]) -> str:
    config = _read_json(directory / "config.json")
    family = str(config.get("model_type"))
    if family not in families:
        raise ExportError(
            f"{directory} is a {family} checkpoint; supported in {directory.name}/ are "
            f"{', '.join(families)}"
        )
    return family


def _load(model_class: Model, directory: Path) -> Model:
    if not list(directory.glob("*.safetensors")):
        raise ExportError(f"{directory} holds no .safetensors file with weights")
    disable_progress_bar: Callable[[], None] = transformers_logging.disable_progress_bar
    disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    # transformers and safetensors raise many kinds for damaged files.
    except Exception as error:
        raise ExportError(f"{directory} cannot be loaded: {error}") from error
    for kind, remedy in (
        ("missing_keys", "transformers would fill them with random numbers"),
        ("unexpected_keys", "they belong to another model"),
        ("mismatched_keys", "their shapes do not fit the config"),
    ):
        keys = sorted(str(key) for key in info.get(kind) or ())
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if keys[3:] else "")
            raise ExportError(f"{directory}: {kind.replace('_', ' ')} {shown}; {remedy}")
    return model.eval().requires_grad_(False)


def _check_language(vlm: Model, family: str) -> None:
    tower = vlm.config.vision_config.model_type
    if TOWER_FAMILIES.get(tower) != family:
        raise ExportError(f"vlm/ has a {tower} tower and dual/ is a {family} model")
    decoder = vlm.config.text_config
    if decoder.model_type not in DECODER_FAMILIES:
        raise ExportError(
            f"vlm/ has a {decoder.model_type} decoder; supported are {', '.join(DECODER_FAMILIES)}"
        )
    rotary = decoder.rope_parameters["rope_type"]
    if rotary not in STATIC_ROTARY:
        raise ExportError(
            f"the decoder's rotary embedding is {rotary}; supported are {', '.join(STATIC_ROTARY)}"
        )


def _share_tower(dual: Model, vlm: Model, vision_tower: str) -> None:
    """Make the dual encoder's tower the one that is exported."""
    ours, theirs = dual.vision_model.state_dict(), vlm.model.vision_tower.state_dict()
    if vision_tower == "dual":
        return
    # LLaVA's tower may come without the pooling head, which it never reads.
    foreign = sorted(theirs.keys() - ours.keys())
    misfits = [k for k in theirs.keys() & ours.keys() if theirs[k].shape != ours[k].shape]
    if foreign or misfits:
        raise ExportError(
            "the vision towers of dual/ and vlm/ are built differently, as in "
            f"{(foreign + misfits)[0]}; set vision_tower: dual in bundle.yaml to drop vlm/'s, "
            "if the language model can read the other's features"
        )
    if vision_tower == "vlm":
        dual.vision_model.load_state_dict(theirs, strict=False)
        return
    for key, value in theirs.items():
        if not torch.equal(value, ours[key]):
            raise ExportError(
                "the vision towers of dual/ and vlm/ differ, by up to "
                f"{float((value - ours[key]).abs().max()):.3g} in {key}; choose one with "
                "vision_tower: dual or vision_tower: vlm in bundle.yaml"
            )


def _load_tokenizer(directory: Path, model: Model) -> Model:
    if not (directory / "tokenizer.json").is_file():
        raise ExportError(
            f"{directory} holds no tokenizer.json; save the fast tokenizer there "
            "(PreTrainedTokenizerFast.save_pretrained)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise ExportError(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    rows = model.config.text_config.vocab_size
    if len(tokenizer) > rows:
        raise ExportError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens and the model knows {rows}; "
            "they do not belong together"
        )
    return tokenizer


def _load_normalisation(directory: Path) -> Normalisation:
    settings: dict[str, Any] = {}
    if (directory / "preprocessor_config.json").is_file():
        settings = _read_json(directory / "preprocessor_config.json")
    elif (directory / "processor_config.json").is_file():
        settings = _read_json(directory / "processor_config.json").get("image_processor", {})
    if "image_mean" not in settings or "image_std" not in settings:
        raise ExportError(
            f"{directory} holds no preprocessor_config.json with image_mean and image_std; "
            "save the processor beside the model"
        )
    factor = settings.get("rescale_factor", 1 / 255)
    if not settings.get("do_rescale", True) or abs(factor - 1 / 255) > 1e-9:
        raise ExportError(f"{directory}: only processors that rescale by 1/255 are supported")
    if not settings.get("do_normalize", True):
        return Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Normalisation(mean=tuple(settings["image_mean"]), std=tuple(settings["image_std"]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing; is this a Hugging Face checkpoint?") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds no JSON object")
    return content
