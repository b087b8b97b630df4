# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the Hugging Face checkpoints that a bundle is made of, and trusts none of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bridge import BRIDGE_WEIGHTS, install_bridge
from vlm_perception.deploy.checkpoints.families import (
    DUAL_FAMILIES,
    LANGUAGE_FAMILIES,
    LANGUAGE_TOWERS,
    STATIC_ROTARY,
    DualFamily,
    LanguageFamily,
)
from vlm_perception.deploy.checkpoints.files import (
    STEPS_NAME,
    refuse_adapter,
    require_plain_weights,
    weight_files,
)
from vlm_perception.deploy.checkpoints.quiet import quieten
from vlm_perception.deploy.checkpoints.shared_tower import difference, share_tower
from vlm_perception.deploy.checkpoints.tokenizers.load import load_tokenizer, name_end_token
from vlm_perception.deploy.checkpoints.unsupported import require_supported
from vlm_perception.deploy.checkpoints.views import AUTO, WHOLE, TilesWish, View
from vlm_perception.modeling.bridge_spec import StoredBridge
from vlm_perception.modeling.pixel_scaling import Normalisation, read_json, read_normalisation
from vlm_perception.modeling.temporal_attention import TemporalAttention, load_temporal
from vlm_perception.modeling.towers.trunk import KnownTower, TowerParts
from vlm_perception.modeling.towers.vision_tower import VisionTower

# Modules and configurations of transformers carry no types.
Model = Any

_log = logging.getLogger(__name__)


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
    language_tower: type[KnownTower] | None
    """Kind of the language model's own vision tower; None: it reads the tokens of dual/'s."""
    language_normalisation: Normalisation
    """Of the pixels for the tower that the language model reads."""
    view: View | None
    """How the language model's processor shows an image to its own tower."""
    bridge: StoredBridge | None
    """What stands in the place of the language model's projector; None: its own."""
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
        tower: type[KnownTower] = self.language_tower or self.family.vision
        return tower.parts(getattr(self.vlm.model, self.vlm_family.tower))

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
    def positions(self) -> int:
        """Positions of the decoder; with a sliding window as many as all its layers see at once."""
        config = self.decoder.config
        positions: int = config.max_position_embeddings
        window: int | None = getattr(config, "sliding_window", None)
        return positions if window is None else min(positions, window)

    @property
    def language_processor_path(self) -> Path:
        """Directory with the image processor for the language model's whole images."""
        own = self.vlm_family is not None and not self.vlm_family.tiles
        return self.path / "vlm" if own else self.processor_path

    @property
    def projector_needs_grid(self) -> bool:
        """Whether the projector fails when tokens of the exported tower are missing."""
        family = self.vlm_family
        if family is None or self.language_tower is not None:
            return False
        return family.needs_grid or (self.bridge is not None and self.bridge.needs_grid)


def load_checkpoint(
    path: Path,
    vision_tower: str,
    tiles: TilesWish = TilesWish(),  # noqa: B008 - frozen
    bridge: StoredBridge | None = None,
) -> Checkpoint:
    """Load `dual/` and, where they are there, `vlm/` and `temporal/`.

    Args:
        path: the directory that holds them.
        vision_tower: which tower the language model reads, as bundle.yaml says it.
        tiles: what a tower of its own sees of an image.
        bridge: what bundle.yaml says of it.

    Raises:
        ExportError: a directory, key or file is missing, foreign or damaged.
    """
    parts = [name for name in ("dual", "vlm") if name == "dual" or (path / name).is_dir()]
    types = {name: _model_type(path / name, name) for name in parts}
    for name in parts:
        require_plain_weights(path / name)
    family, dual = load_dual(path / "dual")
    dual = family.convert(dual)
    owner = processor_path = path / "dual"
    vlm, vlm_family, language_tower = None, None, None
    if "vlm" in types:
        vlm_family = LANGUAGE_FAMILIES[types["vlm"]]
        check = partial(_check_language, vlm_family)
        vlm = _load(vlm_family.model_class, path / "vlm", check)
        own = getattr(vlm.model, vlm_family.tower)
        if vision_tower != "dual":
            vlm_family.check_tower(own)
        if vision_tower == "auto":
            reason = _why_own(path, family.vision, dual, own)
            vision_tower = "own" if reason else "same"
            if reason:
                _log.warning("the language model keeps a vision tower of its own: %s", reason)
        if vision_tower == "own":
            language_tower = LANGUAGE_TOWERS[own.config.model_type]
        else:
            _require_shared(path, family.vision, dual, own, vision_tower)
    elif vision_tower in ("vlm", "own"):
        raise ExportError(
            f"bundle.yaml says vision_tower: {vision_tower}, but {path} contains no vlm/"
        )
    if vision_tower == "vlm" and vlm_family is not None:
        owner = path / "vlm"
        processor_path = processor_path if vlm_family.tiles else owner
    own_tower = language_tower is not None
    install_bridge(bridge, vlm, dual.vision_model, path / "vlm", own=own_tower)
    dual_tokenizer = load_tokenizer(path / "dual", dual)
    name_end_token(dual, dual_tokenizer)
    normalisation = read_normalisation(owner)
    read = path / "vlm" if language_tower is not None else owner
    view = None
    if language_tower is not None and vlm_family is not None:
        view = vlm_family.view(path / "vlm", tiles)
        view.prepare(vlm)
    elif tiles.layout not in (WHOLE, AUTO) or tiles.tokens is not None:
        option = "--tiles" if tiles.tokens is None else "--image-tokens"
        raise ExportError(
            f"{option} is for a language model with a vision tower of its own (vision_tower: own "
            "in bundle.yaml); leave it out"
        )
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
        language_tower=language_tower,
        language_normalisation=read_normalisation(read),
        view=view,
        bridge=bridge,
        temporal=load_temporal(path / "temporal", family.vision.embedding_width(dual.config)),
        weights=_hashes(path),
    )


def load_dual(directory: Path) -> tuple[DualFamily, Model]:
    """Load a dual encoder in FP32 as transformers has it, before its family converts it.

    Raises:
        ExportError: it is none of a known family, or a file is missing or damaged.
    """
    family = DUAL_FAMILIES[_model_type(directory, "dual")]
    require_plain_weights(directory)
    return family, _load(family.model_class, directory, family.vision.check)


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
    files += path.glob(f"vlm/{BRIDGE_WEIGHTS}")
    files += path.glob(STEPS_NAME)
    return {str(file.relative_to(path)): file_sha256(file) for file in sorted(files)}


def _model_type(directory: Path, part: str) -> str:
    """The class of a model, which can be exported as `dual` or `vlm`."""
    refuse_adapter(directory, str(directory))
    name = str(read_json(directory / "config.json").get("model_type"))
    other = "vlm" if part == "dual" else "dual"
    require_supported(str(directory), part, name, f"its place is {other}/")
    return name


def _load(model_class: Model, directory: Path, check: Callable[[Model], None]) -> Model:
    """Load a model whose configuration passes a check; weights may take minutes to read."""
    quieten()
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


def _check_language(family: LanguageFamily, whole: Model) -> None:
    tower, config = whole.vision_config.model_type, whole.text_config
    if tower not in LANGUAGE_TOWERS:
        raise ExportError(
            f"vlm/ has a {tower} tower; supported are {', '.join(sorted(LANGUAGE_TOWERS))}"
        )
    if config.model_type not in family.decoders:
        raise ExportError(
            f"vlm/ has a {config.model_type} decoder; supported are {', '.join(family.decoders)}"
        )
    rotary = config.rope_parameters["rope_type"]
    if rotary not in STATIC_ROTARY:
        raise ExportError(
            f"the decoder's rotary embedding is {rotary}; supported are {', '.join(STATIC_ROTARY)}"
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise ExportError(
            "the decoder of vlm/ lets tokens see later ones (use_bidirectional_attention), so it "
            "cannot write text; use a model that is made to"
        )


def _why_own(path: Path, vision: type[VisionTower], dual: Model, own: Model) -> str:
    """Why dual/ and vlm/ cannot share a tower; empty: they can."""
    return (
        _other_family(vision, own)
        or difference(dual, own, vision.settings)
        or _other_normalisation(path)
    )


def _require_shared(
    path: Path, vision: type[VisionTower], dual: Model, own: Model, vision_tower: str
) -> None:
    """Make the dual encoder's tower the one that both read.

    Raises:
        ExportError: the language model cannot read it.
    """
    if reason := _other_family(vision, own):
        raise ExportError(
            f"{reason}, and vision_tower: {vision_tower} makes them share one; set vision_tower: "
            "own in bundle.yaml to keep both"
        )
    if vision_tower == "dual":
        return
    share_tower(dual, own, vision_tower, vision.settings)
    if vision_tower == "same" and (reason := _other_normalisation(path)):
        raise ExportError(
            f"{reason}; set vision_tower: own in bundle.yaml to keep both, or dual or vlm to choose"
        )


def _other_family(vision: type[VisionTower], own: Model) -> str:
    name = own.config.model_type
    if name in vision.model_types:
        return ""
    return f"vlm/ has a {name} tower and dual/ a {vision.name} tower"


def _other_normalisation(path: Path) -> str:
    one, other = (read_normalisation(path / name) for name in ("dual", "vlm"))
    if one == other:
        return ""
    return (
        f"dual/ and vlm/ have equal vision towers but scale pixels differently (mean {one.mean} "
        f"and {other.mean}, std {one.std} and {other.std})"
    )
