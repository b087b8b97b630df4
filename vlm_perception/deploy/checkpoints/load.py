# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the Hugging Face checkpoints that a bundle is made of, and trusts none of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.families import (
    DECODERS,
    DUAL_FAMILIES,
    LANGUAGE_FAMILIES,
    STATIC_ROTARY,
    DualFamily,
    LanguageFamily,
)
from vlm_perception.deploy.checkpoints.files import require_plain_weights, weight_files
from vlm_perception.deploy.checkpoints.shared_tower import share_tower
from vlm_perception.deploy.checkpoints.tokenizer import load_tokenizer, name_end_token
from vlm_perception.modeling.pixel_scaling import Normalisation, read_json, read_normalisation
from vlm_perception.modeling.temporal_attention import TemporalAttention, load_temporal
from vlm_perception.modeling.towers.vision_tower import TowerParts, VisionTower

# Modules and configurations of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class Checkpoint:
    """A dual encoder and perhaps a language model, loaded in FP32 and ready to export."""

    path: Path
    family: DualFamily
    dual: Model
    """A model that the family's towers read; its vision tower is the one that is exported."""
    dual_tokenizer: Model
    processor_path: Path
    """Directory with the image processor that fits images to that tower."""
    normalisation: Normalisation
    vlm: Model | None
    vlm_family: LanguageFamily | None
    vlm_tokenizer: Model | None
    temporal: TemporalAttention | None
    weights: dict[str, str]
    """Hash of each weight file, by its path in the directory."""

    @property
    def vision_parts(self) -> TowerParts:
        """The parts of the vision tower that is exported."""
        return self.family.vision.parts(self.dual.vision_model)

    @property
    def language_vision_parts(self) -> TowerParts:
        """The parts of the language model's own tower."""
        assert self.vlm is not None
        assert self.vlm_family is not None
        return self.family.vision.parts(getattr(self.vlm.model, self.vlm_family.tower))

    @property
    def text_length(self) -> int:
        """Tokens of the longest text that the dual encoder reads."""
        length: int = self.dual.config.text_config.max_position_embeddings
        return length

    @property
    def decoder(self) -> Model:
        """The language model's decoder, without its output layer."""
        assert self.vlm is not None
        assert self.vlm_family is not None
        return getattr(self.vlm.model, self.vlm_family.decoder)

    @property
    def language_processor_path(self) -> Path:
        """Directory with the image processor for the language model's whole images."""
        own = self.vlm_family is not None and not self.vlm_family.tiles
        return self.path / "vlm" if own else self.processor_path

    @property
    def projector_needs_grid(self) -> bool:
        """Whether the projector fails when tokens are missing."""
        return self.vlm_family is not None and self.vlm_family.needs_grid


def load_checkpoint(path: Path, vision_tower: str) -> Checkpoint:
    """Load `dual/` and, where they are there, `vlm/` and `temporal/`.

    Args:
        path: the directory that holds them.
        vision_tower: `same`, `dual` or `vlm`: whose vision tower is meant.

    Raises:
        ExportError: a directory, key or file is missing, foreign or damaged.
    """
    for name in ("dual", "vlm"):
        if (path / name).is_dir():
            require_plain_weights(path / name)
    family = DUAL_FAMILIES[_model_type(path / "dual", DUAL_FAMILIES)]
    dual = family.convert(_load(family.model_class, path / "dual", family.vision.check))
    owner = processor_path = path / "dual"
    vlm, vlm_family = None, None
    if (path / "vlm").is_dir():
        vlm_family = LANGUAGE_FAMILIES[_model_type(path / "vlm", LANGUAGE_FAMILIES)]
        check = partial(_check_language, vision=family.vision)
        vlm = _load(vlm_family.model_class, path / "vlm", check)
        if vision_tower != "dual":
            own = getattr(vlm.model, vlm_family.tower)
            vlm_family.check_tower(own)
            share_tower(dual, own, vision_tower, family.vision.settings)
    if vision_tower == "vlm":
        if vlm_family is None:
            raise ExportError(f"bundle.yaml says vision_tower: vlm, but {path} contains no vlm/")
        owner = path / "vlm"
        processor_path = processor_path if vlm_family.tiles else owner
    dual_tokenizer = load_tokenizer(path / "dual", dual)
    name_end_token(dual, dual_tokenizer)
    normalisation = read_normalisation(owner)
    if vlm is not None and vision_tower == "same":
        _check_same_normalisation(path / "vlm", normalisation)
    return Checkpoint(
        path=path,
        family=family,
        dual=dual,
        dual_tokenizer=dual_tokenizer,
        processor_path=processor_path,
        normalisation=normalisation,
        vlm=vlm,
        vlm_family=vlm_family,
        vlm_tokenizer=load_tokenizer(path / "vlm", vlm) if vlm is not None else None,
        temporal=load_temporal(path / "temporal", family.vision.embedding_width(dual.config)),
        weights=_hashes(path),
    )


def round_to_half(model: Model) -> None:
    """Round every weight to what FP16 can hold, in place; larger numbers stay as they are."""
    with torch.no_grad():
        for weight in model.parameters():
            rounded = weight.half().float()
            if bool(torch.isfinite(rounded).all()):
                weight.copy_(rounded)


def _hashes(path: Path) -> dict[str, str]:
    models = [path / name for name in ("dual", "vlm") if (path / name).is_dir()]
    files = [file for model in models for file in weight_files(model)]
    files += path.glob("temporal/*.safetensors")
    return {str(file.relative_to(path)): file_sha256(file) for file in sorted(files)}


def _model_type(directory: Path, families: Collection[str]) -> str:
    name = str(read_json(directory / "config.json").get("model_type"))
    if name not in families:
        decoders = f", with a decoder of {' or '.join(DECODERS)}" if directory.name == "vlm" else ""
        raise ExportError(
            f"{directory} is a {name} checkpoint; supported in {directory.name}/ are "
            f"{', '.join(families)}{decoders}"
        )
    return name


def _load(model_class: Model, directory: Path, check: Callable[[Model], None]) -> Model:
    """Load a model whose configuration passes a check; weights may take minutes to read."""
    disable_progress_bar: Callable[[], None] = transformers_logging.disable_progress_bar
    disable_progress_bar()
    try:
        config = model_class.config_class.from_pretrained(directory, local_files_only=True)
        check(config)
        model, info = model_class.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
        )
    except ExportError:
        raise
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


def _check_language(whole: Model, vision: type[VisionTower]) -> None:
    tower, config = whole.vision_config.model_type, whole.text_config
    if tower not in vision.model_types:
        raise ExportError(
            f"vlm/ has a {tower} tower and dual/ a {vision.name} tower; they must be of the same "
            "family"
        )
    if config.model_type not in DECODERS:
        raise ExportError(
            f"vlm/ has a {config.model_type} decoder; supported are {', '.join(DECODERS)}"
        )
    rotary = config.rope_parameters["rope_type"]
    if rotary not in STATIC_ROTARY:
        raise ExportError(
            f"the decoder's rotary embedding is {rotary}; supported are {', '.join(STATIC_ROTARY)}"
        )
    if getattr(config, "use_sliding_window", False):
        raise ExportError(
            "the decoder uses sliding-window attention, which is not supported; if texts stay "
            "shorter than the window, set use_sliding_window to false in vlm/config.json"
        )


def _check_same_normalisation(directory: Path, normalisation: Normalisation) -> None:
    other = read_normalisation(directory)
    if other != normalisation:
        raise ExportError(
            f"dual/ and vlm/ share a tower but scale pixels differently (mean {normalisation.mean} "
            f"and {other.mean}, std {normalisation.std} and {other.std}); set vision_tower to dual "
            "or vlm in bundle.yaml to choose"
        )
