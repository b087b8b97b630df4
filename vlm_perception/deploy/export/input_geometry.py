# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which image the tower takes, and where in the tower's own grid each of its patches stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_perception.bundle.manifest import ImageSpec, ProcessorSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec, parse_aspect
from vlm_perception.deploy.checkpoints.image_processor import load_processor, processor_spec
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.checkpoints.naflex import NaflexEmbeddings
from vlm_perception.deploy.export.options import ExportOptions

# Modules of transformers carry no types.
Module = Any


@dataclass(frozen=True)
class Geometry:
    """The graph's image and the position embeddings of its patches."""

    image: ImageSpec
    positions: Tensor
    """[1, tokens, W]; the class token's first, where the tower has one."""


def choose_geometry(source: Checkpoint, spec: BundleSpec, options: ExportOptions) -> Geometry:
    """The geometry that the options or bundle.yaml ask for; the tower's own square by default.

    The checkpoint's geometry goes before that of bundle.yaml.

    Raises:
        ExportError: it does not fit the tower, or two geometries are asked for.
    """
    embeddings = source.dual.vision_model.embeddings
    patch: int = embeddings.patch_size
    side = native_side(embeddings)
    processor = None
    aspect = options.aspect or (spec.geometry.aspect if spec.geometry is not None else None)
    if options.aspect is not None and spec.geometry is not None:
        raise ExportError(
            "--aspect and `geometry` in bundle.yaml both set the shape of the image; remove one"
        )
    if options.geometry != "bundle":
        fast = options.geometry == "checkpoint-fast"
        processor = processor_spec(load_processor(source.processor_path), fast=fast)
        columns, rows = grid_of_processor(processor, embeddings)
        positions = positions_for(embeddings, columns, rows)
    elif aspect is not None:
        columns, rows = aspect_grid(side, patch, parse_aspect(aspect))
        positions = window_of_positions(embeddings, columns, rows)
    else:
        columns, rows = _grid(spec, patch, side)
        positions = positions_for(embeddings, columns, rows)
    red, green, blue = (min(255, max(0, round(255 * m))) for m in source.normalisation.mean)
    # transformers' processors pad with black.
    pad = (red, green, blue) if processor is None else (0, 0, 0)
    image = ImageSpec(
        width=columns * patch,
        height=rows * patch,
        patch=patch,
        columns=columns,
        rows=rows,
        mean=source.normalisation.mean,
        std=source.normalisation.std,
        pad=pad,
        processor=processor,
    )
    return Geometry(image, positions)


def native_side(embeddings: Module) -> int:
    """Patches along each side of the square that the tower was built for.

    Pixels behind the last whole patch (384 = 27 patches of 14 and 6 pixels) are never read.
    """
    side: int = embeddings.image_size // embeddings.patch_size
    return side


def aspect_grid(side: int, patch: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of the least band of a square grid that holds pictures of an aspect.

    No row or column is padding only: what reaches into the next patch by less than half a pixel
    does not get one.
    """
    # Whole pixels first, then whole patches.
    pixels = (max(1, round(side * patch * part / max(aspect))) for part in aspect)
    columns, rows = (-(-length // patch) for length in pixels)
    return columns, rows


def window_of_positions(embeddings: Module, columns: int, rows: int) -> Tensor:
    """Position embeddings of the middle of the tower's own grid, [1, tokens, W].

    Where an odd number of rows (columns) is left out, one more of them lies below (on the right).
    Without pruning the result is that of the whole square with all other patches masked as keys.
    A NaFlex tower was trained on grids of any shape and gets what it has for this one.
    """
    if isinstance(embeddings, NaflexEmbeddings):
        return positions_for(embeddings, columns, rows)
    weight: Tensor = embeddings.position_embedding.weight.detach()
    side = native_side(embeddings)
    class_tokens = weight.shape[0] - side * side
    top, left = (side - rows) // 2, (side - columns) // 2
    grid = weight[class_tokens:].reshape(side, side, -1)
    band = grid[top : top + rows, left : left + columns].reshape(rows * columns, -1)
    return torch.cat([weight[:class_tokens], band]).unsqueeze(0)


def positions_for(embeddings: Module, columns: int, rows: int) -> Tensor:
    """Position embeddings for a grid of patches, [1, tokens, W].

    As many patches as the tower has positions take them as they are, whatever the shape of
    the grid: such a tower was trained so. Otherwise, and for NaFlex, transformers' own
    interpolation applies.
    """
    weight: Tensor = embeddings.position_embedding.weight.detach()
    patch = embeddings.patch_size
    class_tokens = 1 if hasattr(embeddings, "class_embedding") else 0
    fits = rows * columns + class_tokens == weight.shape[0]
    if fits and not isinstance(embeddings, NaflexEmbeddings):
        return weight.unsqueeze(0)
    blank = torch.zeros(1, rows * columns + class_tokens, weight.shape[1])
    with torch.no_grad():
        result: Tensor = embeddings.interpolate_pos_encoding(blank, rows * patch, columns * patch)
    return result


def _grid(spec: BundleSpec, patch: int, side: int) -> tuple[int, int]:
    """Columns and rows of the geometry in bundle.yaml, or of the tower's own square."""
    if spec.geometry is None:
        return side, side
    width, height = spec.geometry.size
    if width % patch or height % patch:
        raise ExportError(
            f"the geometry {width}x{height} is no whole number of patches of {patch} pixels; "
            f"the nearest is {round(width / patch) * patch}x{round(height / patch) * patch}"
        )
    return width // patch, height // patch


def grid_of_processor(processor: ProcessorSpec, embeddings: Module) -> tuple[int, int]:
    """Columns and rows that the tower reads of what the processor gives.

    Pixels behind the last whole patch are cut off, as the patch embedding leaves them out.

    Raises:
        ExportError: the tower has no positions for so many patches.
    """
    width, height = processor.size
    patch = embeddings.patch_size
    columns, rows = width // patch, height // patch
    class_tokens = 1 if hasattr(embeddings, "class_embedding") else 0
    if columns * rows + class_tokens != embeddings.position_embedding.weight.shape[0]:
        side = embeddings.image_size
        raise ExportError(
            f"the checkpoint's image processor does not fit the tower: it makes {width}x{height} "
            f"pixels, and the tower takes {side}x{side} in patches of {patch}; set size and "
            "crop_size in preprocessor_config.json"
        )
    return columns, rows
