# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the frozen tower makes of all images, computed once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.datasets.roadworld.files.shards import Shard
from vlm_perception.modeling.pixel_scaling import Normalisation
from vlm_perception.modeling.token_pruning import FUSED_INDEX
from vlm_perception.training.tower import see

# Modules of transformers carry no types.
Module = Any
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Of SigLIP."""
CHUNK = 100


@torch.no_grad()
def cache_features(
    tower: Module,
    images: Iterable[NDArray[np.uint8]],
    path: Path,
    keep: Sequence[KeepStep] = (),
    *,
    scaling: Normalisation = HALF,
    chunks: int | None = None,
) -> NDArray[np.float16]:
    """What LLaVA reads, [N, tokens, D], of every image, kept at `path`.

    With pruning the places of the tokens, [N, tokens], are kept beside it: see `read_places`.

    Args:
        tower: a SiglipVisionModel or a CLIPVisionModel.
        images: in chunks [n, H, W, 3].
        path: of the file.
        keep: steps of pruning, of a SigLIP.
        scaling: of its pixels.
        chunks: how many there are, for the progress bar.
    """
    if not path.exists():
        features, places = [], []
        device = next(tower.parameters()).device
        tower.train(False)
        for chunk in track(images, "Features of the vision tower", total=chunks):
            pixels = _pixels(chunk, scaling).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                seen, index = look(tower, pixels, keep)
            features.append(seen.to("cpu", torch.float16).numpy())
            places.append(index.to("cpu", torch.int16).numpy())
        if keep:
            _save(places_file(path), np.concatenate(places))
        _save(path, np.concatenate(features))
    stored: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored


def _save(path: Path, values: NDArray[Any]) -> None:
    partial = path.with_suffix(".partial.npy")
    np.save(partial, values)
    partial.rename(path)


def places_file(path: Path) -> Path:
    """Where the places of tokens are kept beside their features."""
    return path.with_suffix(".places.npy")


def read_places(path: Path) -> NDArray[np.int16] | None:
    """The places of tokens, [N, tokens], whose features are kept at `path`; None: no one misses."""
    file = places_file(path)
    return np.load(file, mmap_mode="r") if file.exists() else None


def _pixels(images: NDArray[np.uint8], scaling: Normalisation) -> Tensor:
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    if scaling == HALF:
        return pixels.div_(127.5).sub_(1.0)
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (scaling.mean, scaling.std))
    return (pixels / 255 - mean) / std


def look(tower: Module, pixels: Tensor, keep: Sequence[KeepStep]) -> tuple[Tensor, Tensor]:
    """What LLaVA reads of images, and its places in the grid: a fused token's is FUSED_INDEX."""
    if tower.config.model_type == "clip_vision_model":
        states = tower(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
        features = states.hidden_states[-2][:, 1:]
        index = torch.arange(features.shape[1]).expand(len(features), -1)
        return features, index
    seen = see(tower, pixels, keep)
    fused = seen.features.shape[1] - seen.index.shape[1]
    return seen.features, torch.nn.functional.pad(seen.index, (0, fused), value=FUSED_INDEX)


def chunks_of(shards: Sequence[Shard]) -> Iterator[NDArray[np.uint8]]:
    """The images of shards."""
    for shard in shards:
        for first in range(0, len(shard.labels), CHUNK):
            yield shard.images[first : first + CHUNK]


def count_chunks(shards: Sequence[Shard]) -> int:
    """How many chunks there are."""
    return sum(-(-len(shard.labels) // CHUNK) for shard in shards)
