# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the frozen tower makes of all images, computed once and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.datasets.roadworld.files.shards import Shard
from vlm_perception.modeling.pixel_scaling import Normalisation
from vlm_perception.modeling.token_pruning import FUSED_INDEX
from vlm_perception.outputs.durable import whole_file
from vlm_perception.training.distillation.room import require_room
from vlm_perception.training.tower import see

# Modules of transformers carry no types.
Module = Any
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Of SigLIP."""
CHUNK = 100


def cache_features(
    tower: Module,
    images: Iterable[NDArray[np.uint8]],
    count: int,
    path: Path,
    keep: Sequence[KeepStep] = (),
    *,
    scaling: Normalisation = HALF,
) -> NDArray[np.float16]:
    """What LLaVA reads, [N, tokens, D], of every image, kept at `path`.

    With pruning the places of the tokens, [N, tokens], are kept beside it: see `read_places`.

    Args:
        tower: a SiglipVisionModel or a CLIPVisionModel.
        images: in chunks [n, H, W, 3].
        count: of all images.
        path: of the file.
        keep: steps of pruning, of a SigLIP.
        scaling: of its pixels.

    Raises:
        DistillationError: the disk has too little room.
    """
    if not path.exists():
        _compute(tower, images, count, path, keep, scaling)
    stored: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored


@torch.no_grad()
def _compute(
    tower: Module,
    images: Iterable[NDArray[np.uint8]],
    count: int,
    path: Path,
    keep: Sequence[KeepStep],
    scaling: Normalisation,
) -> None:
    device = next(tower.parameters()).device
    tower.train(False)
    aside, stored, places = path.with_suffix(".partial.npy"), None, []
    with Progress(transient=True) as progress:
        bar, done = progress.add_task("Features of the vision tower", total=count), 0
        for chunk in images:
            pixels = _pixels(chunk, scaling).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                seen, index = look(tower, pixels, keep)
            if stored is None:
                shape = (count, *seen.shape[1:])
                require_room(aside, 2 * math.prod(shape), "take fewer images or views")
                stored = _mapped(aside, shape)
            stored[done : done + len(chunk)] = seen.to("cpu", torch.float16).numpy()
            places.append(index.to("cpu", torch.int16).numpy())
            done += len(chunk)
            progress.update(bar, completed=done)
    assert stored is not None
    stored.flush()
    if keep:
        with whole_file(places_file(path)) as stream:
            np.save(stream, np.concatenate(places))
    aside.rename(path)


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float16]]:
    """A new file of zeros, to be written in place."""
    # numpy gives this function no types.
    mapped: Any = np.lib.format.open_memmap
    stored: np.memmap[Any, np.dtype[np.float16]] = mapped(path, "w+", np.float16, shape)
    return stored


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
