# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench encoder` compares: each case's checkpoint, its dense bundle and the fast one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.machine import cache_directory
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.deploy.checkpoints.quiet import quieten
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import export_state
from vlm_perception.training.roadworld_words import build_tokenizer

NANO = "roadworld-nano/shipped"
NANO_CHECKPOINT = Path("checkpoints/roadworld-nano")
DENSE = "dense"
IMAGES = 500
IMAGE_SIZE = (640, 360)

# openai/clip-vit-base-patch16 in the vision tower. The text tower takes no part and is small.
VIT_B16 = CLIPConfig(
    vision_config={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    text_config={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    projection_dim=512,
)


class CaseError(VlmPerceptionError):
    """A case cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Aim:
    """The least that a case should reach."""

    vs_ort_fp32: float
    vs_transformers: float
    fps: float | None = None


@dataclass(frozen=True)
class Case:
    """A bundle and what it should reach against its checkpoint."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the export, besides the calibration images."""
    aim: Aim | None = None


INT8 = {"precision": "int8-mixed", "validate": False}
"""Random weights: how far they drift means nothing."""
CASES = (
    Case("vit-b16/int8-dense", INT8, Aim(2.2, 2.0)),
    Case("vit-b16/int8-keep0.7", {**INT8, "keep": "0.7@3,6,9"}, Aim(3.0, 3.0)),
    Case("vit-b16/int8-keep0.5", {**INT8, "keep": "0.5@3,6,9"}, Aim(3.8, 4.0)),
    Case(
        "vit-b16/int8-keep0.7-16x9",
        {**INT8, "keep": "0.7@3,6,9", "aspect": "16:9"},
        Aim(4.5, 5.0, fps=30.0),
    ),
    Case(NANO),
)


@dataclass(frozen=True)
class Contestants:
    """What is compared in one case."""

    checkpoint: Path
    """The dual encoder's directory, for transformers."""
    dense: ModelBundle
    """The checkpoint at its own size, all tokens and heads, computed in FP32."""
    bundle: ModelBundle


class Workshop:
    """Makes checkpoints and bundles in a folder, once: what is there is used again."""

    def __init__(self, folder: Path, tower: CLIPConfig = VIT_B16) -> None:
        """Work in a folder, with CLIP models of this shape and random weights."""
        self._folder, self._tower = folder, tower

    def prepare(self, case: Case) -> Contestants:
        """Make or find what a case compares.

        Raises:
            CaseError: it needs a checkpoint that is not there.
            BundleError: the shipped bundle cannot be used.
            ExportError: the export failed.
        """
        if case.name == NANO:
            return self._shipped()
        checkpoint = self._random_checkpoint()
        dense = self._bundle(checkpoint, "vit-b16/dense", ExportOptions(geometry="checkpoint"))
        options = ExportOptions(**case.options, calibration=self.calibration_images())
        return Contestants(checkpoint / "dual", dense, self._bundle(checkpoint, case.name, options))

    def _shipped(self) -> Contestants:
        if not NANO_CHECKPOINT.is_dir():
            raise CaseError(
                f"the case {NANO} needs {NANO_CHECKPOINT}: run it in the source directory"
            )
        dense = self._bundle(
            NANO_CHECKPOINT, "roadworld-nano/dense", ExportOptions(geometry="checkpoint")
        )
        return Contestants(NANO_CHECKPOINT / "dual", dense, ModelBundle.load("roadworld-nano"))

    def _bundle(self, checkpoint: Path, name: str, options: ExportOptions) -> ModelBundle:
        path = self._folder / name
        try:
            return ModelBundle.load(path)
        except BundleError:
            shutil.rmtree(path, ignore_errors=True)
            return export_bundle(checkpoint, path, options)

    def calibration_images(self) -> Path:
        """Write the images that cases are calibrated with; returns their folder."""
        folder = self._folder / "images"
        write_images(folder, IMAGES, IMAGE_SIZE)
        return folder

    def _random_checkpoint(self) -> Path:
        """A CLIP checkpoint with random weights, as `vlm-perception export` takes one."""
        path = self._folder / "vit-b16" / "checkpoint"
        if path.is_dir():
            return path
        partial = path.with_name(".checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        tokenizer = build_tokenizer()
        # CLIP reads a text at its end token, which has the highest id.
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
        )
        # Configurations of transformers carry no types.
        config: Any = CLIPConfig.from_dict(self._tower.to_dict())
        config.text_config.vocab_size = len(tokenizer)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(config.text_config, name, getattr(tokenizer, name))
        side: int = config.vision_config.image_size
        torch.manual_seed(0)
        quieten()
        # Half of the bytes; the export rounds to half anyway.
        CLIPModel(config).half().save_pretrained(partial / "dual")
        tokenizer.save_pretrained(partial / "dual")
        CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ).save_pretrained(partial / "dual")
        (partial / "MODEL_CARD.md").write_text("# Random weights, to measure with\n")
        spec = {
            "name": "vit-b16-random",
            "vocabulary": {"labels": [{"label": "car"}, {"label": "truck"}]},
            "licences": {"weights": "Apache-2.0"},
        }
        (partial / "bundle.yaml").write_text(yaml.safe_dump(spec))
        partial.rename(path)
        return path


def workshop() -> Workshop:
    """The workshop in the user's cache; a new one when the export or a library has changed."""
    base = cache_directory() / "bench-encoder"
    folder = base / export_state([Path(__file__)])
    for old in base.glob("*"):
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    return Workshop(folder)


def select(names: list[str]) -> list[Case]:
    """The cases of these names, in their usual order; without names all that can be measured.

    Raises:
        CaseError: there is no such case.
    """
    known = {case.name: case for case in CASES}
    foreign = [name for name in names if name not in known]
    if foreign:
        raise CaseError(f"there is no case {foreign[0]!r}; choose from {', '.join(known)}")
    if names:
        return [case for case in CASES if case.name in names]
    return [case for case in CASES if case.name != NANO or NANO_CHECKPOINT.is_dir()]
