# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The dual encoder as it is trained: over transformers' modules, with token pruning or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.modeling.pixel_scaling import read_normalisation
from vlm_perception.modeling.token_pruning import class_attention, prune
from vlm_perception.training.tower import patch_embeddings, remembering, see

# Models of transformers carry no types.
Model = Any
HALF_ON_CPU = "avx512_bf16"
"""Where a CPU has it, training in BF16 takes 0.6 times as long as in FP32; without it longer."""


@dataclass(frozen=True)
class Seeing:
    """What a student makes of a batch of images."""

    pooled: Tensor
    """[B, D], in the space of texts."""
    patches: Tensor
    """[B, K, D], each as if it stood alone."""
    index: Tensor
    """[B, K], place in the grid of each patch that is left."""
    hidden: Tensor
    """[B, K, W], what the pooling reads of each."""


def _siglip(model: Model, pixels: Tensor, keep: Sequence[KeepStep], resized: bool) -> Seeing:
    seen = see(model.vision_model, pixels, keep, resized)
    # A fused token comes after those that have a position in the grid.
    placed = seen.normed[:, : seen.index.shape[1]]
    return Seeing(seen.pooled, patch_embeddings(model, placed), seen.index, placed)


def _clip(model: Model, pixels: Tensor, keep: Sequence[KeepStep], resized: bool) -> Seeing:
    """As modeling's ClipVision, whose attention keeps query, key and value in one matrix."""
    tower = model.vision_model
    hidden = tower.pre_layrnorm(_clip_tokens(tower.embeddings, pixels, resized))
    index = torch.arange(hidden.shape[1] - 1, device=hidden.device).expand(len(hidden), -1)
    counts = {step.layer: step.tokens - 1 for step in keep}

    def through(number: int, hidden: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        layer = tower.encoder.layers[number]
        normed = layer.layer_norm1(hidden)
        hidden = hidden + layer.self_attn(normed)[0]
        if number in counts:
            weights = _class_attention(layer.self_attn, normed)
            hidden, index = prune(hidden, index, weights, counts[number], leading=1)
        return hidden + layer.mlp(layer.layer_norm2(hidden)), index

    before = hidden
    for number in range(len(tower.encoder.layers)):
        before = hidden
        hidden, index = remembering(tower, through, number, hidden, index)
    places = index.shape[1]
    last = tower.encoder.layers[-1]
    read = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(before[:, 1:])))
    single = tower.post_layernorm(read)[:, :places]
    pooled = model.visual_projection(tower.post_layernorm(hidden[:, 0]))
    return Seeing(pooled, model.visual_projection(single), index, single)


def _clip_tokens(embeddings: Model, pixels: Tensor, resized: bool) -> Tensor:
    """As modeling's `Positions`: so many patches as there are positions take them as they are."""
    if resized:
        resampled: Tensor = embeddings(pixels, interpolate_pos_encoding=True)
        return resampled
    patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    leading = embeddings.class_embedding.expand(len(pixels), 1, -1)
    placed: Tensor = torch.cat((leading, patches), dim=1) + embeddings.position_embedding.weight
    return placed


def _class_attention(attention: Model, normed: Tensor) -> Tensor:
    # In half precision tokens tie, and others would be chosen than in the exported graph.
    with torch.autocast(normed.device.type, enabled=False):
        query, key = (
            part(normed.float()).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj)
        )
        return class_attention(query * attention.head_dim**-0.5, key)


_FAMILIES: dict[str, Callable[[Model, Tensor, Sequence[KeepStep], bool], Seeing]] = {
    "siglip": _siglip,
    "clip": _clip,
}


class StudentEncoder(nn.Module):
    """A dual encoder of a checkpoint folder, ready to be trained."""

    def __init__(self, folder: Path, size: tuple[int, int], keep: Sequence[KeepStep] = ()) -> None:
        """Load it.

        Args:
            folder: an ordinary checkpoint of a dual encoder.
            size: width and height of its images in pixels.
            keep: steps of token pruning that it is to live with.

        Raises:
            ExportError: it cannot be used, or has no grid of patches for the size.
        """
        super().__init__()
        self.reader = DualReader(folder)
        self.model, family = self.reader.model, self.reader.family
        if family.vision.name not in _FAMILIES:
            raise ExportError(
                f"{folder} is of the family {family.vision.name}; students are SigLIP or CLIP"
            )
        self._see = _FAMILIES[family.vision.name]
        self.softmax = family.text.score == "softmax"
        self.keep = tuple(keep)
        positions = family.vision.parts(self.model.vision_model).positions
        patch = positions.patch
        if size[0] % patch or size[1] % patch:
            raise ExportError(
                f"{size[0]}x{size[1]} pixels cannot be divided into patches of {patch}x{patch}; "
                "choose a size that can"
            )
        self.size = size
        self.grid = size[0] // patch, size[1] // patch
        self._resized = not positions.fits(*self.grid)
        scaling = read_normalisation(folder)
        for name, values in (("_mean", scaling.mean), ("_std", scaling.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        # The fused attention's backward pass in half precision takes half of a step on a CPU.
        self.model.set_attn_implementation("eager")
        self.model.requires_grad_(True).train()

    _mean: Tensor
    _std: Tensor

    @property
    def width(self) -> int:
        """Of the space that images and texts share."""
        return int(self.reader.family.vision.embedding_width(self.model.config))

    @property
    def hidden_width(self) -> int:
        """Of the vision tower."""
        return int(self.model.config.vision_config.hidden_size)

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied by."""
        return self.model.logit_scale.exp()  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor:
        """What is added to them; CLIP has none."""
        bias = getattr(self.model, "logit_bias", None)
        return torch.zeros((), device=self.scale.device) if bias is None else bias

    def autocast(self) -> torch.autocast:
        """BF16 where the device is faster with it."""
        device = self.scale.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or half_on_cpu())

    def compile_vision(self) -> None:
        """Compile the vision tower, which takes minutes and pays in long trainings."""
        self._see = torch.compile(self._see)

    def see(self, images: Tensor, pruned: bool) -> Seeing:
        """Look at images.

        Args:
            images: uint8 [B, H, W, 3].
            pruned: whether tokens are dropped.
        """
        with self.autocast():
            return self.see_in_full(images, pruned)

    def see_in_full(self, images: Tensor, pruned: bool) -> Seeing:
        """Look at images in FP32, as `see` does."""
        pixels = images.to(self.scale.device).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels - self._mean) / self._std
        return self._see(self.model, pixels, self.keep if pruned else (), self._resized)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings of length 1, float32 [texts, D]."""
        ids = self.reader.ids(texts).to(self.scale.device)
        with self.autocast():
            found = self.model.get_text_features(input_ids=ids).pooler_output
        return F.normalize(found.float(), dim=-1)


def half_on_cpu() -> bool:
    """Whether this CPU computes in BF16."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and HALF_ON_CPU in cpuinfo.read_text()
