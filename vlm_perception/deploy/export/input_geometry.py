# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which image the tower takes, and where in the tower's own grid each of its patches stands."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlm_perception.bundle.manifest import ImageSpec, ProcessorSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec, parse_aspect
from vlm_perception.deploy.checkpoints.image_processor import load_processor, processor_spec
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.checkpoints.views import CAMERA_EDGE, WHOLE, TilesWish
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.modeling.towers.positions import Positions


@dataclass(frozen=True)
class Geometry:
    """The graph's image and the position embeddings of its patches."""

    image: ImageSpec
    positions: Tensor
    """[1, tokens, W]; the class tokens' first, where the tower has some."""
    whole: tuple[int, int] | None = None
    """Width and height of the tower's own square, where the image is the middle of it."""


def choose_geometry(source: Checkpoint, spec: BundleSpec, options: ExportOptions) -> Geometry:
    """The geometry that the options or bundle.yaml ask for; the tower's own square by default.

    The checkpoint's geometry goes before that of bundle.yaml.

    Raises:
        ExportError: it does not fit the tower, or two geometries are asked for.
    """
    own = source.vision_parts.positions
    processor, whole = None, None
    aspect = options.aspect or (spec.geometry.aspect if spec.geometry is not None else None)
    if options.aspect is not None and spec.geometry is not None:
        raise ExportError(
            "--aspect and `geometry` in bundle.yaml both set the shape of the image; remove one"
        )
    if options.geometry != "bundle":
        fast = options.geometry == "checkpoint-fast"
        processor = processor_spec(load_processor(source.processor_path), fast=fast)
        columns, rows = grid_of_processor(processor, own)
        positions = own.of_grid(columns, rows)
    elif aspect is not None:
        columns, rows = aspect_grid(own.side, own.patch, parse_aspect(aspect))
        positions = own.of_window(columns, rows)
        if not own.for_any_grid:
            whole = own.side * own.patch, own.side * own.patch
    else:
        columns, rows = _grid(spec, own)
        positions = own.of_grid(columns, rows)
    red, green, blue = (min(255, max(0, round(255 * m))) for m in source.normalisation.mean)
    # transformers' processors pad with black.
    pad = (red, green, blue) if processor is None else (0, 0, 0)
    image = ImageSpec(
        width=columns * own.patch,
        height=rows * own.patch,
        patch=own.patch,
        columns=columns,
        rows=rows,
        mean=source.normalisation.mean,
        std=source.normalisation.std,
        pad=pad,
        processor=processor,
    )
    # Not as a view into the checkpoint, of which much is let go of before the end.
    return Geometry(image, positions.clone(), whole)


def tiles_wish(spec: BundleSpec, options: ExportOptions) -> TilesWish:
    """What the options say of views, for the camera's aspect in the options or bundle.yaml.

    Raises:
        ExportError: tiles are asked for, and the aspect is not known.
    """
    geometry = spec.geometry
    aspect = options.aspect or (geometry.aspect if geometry is not None else None)
    if aspect is not None:
        width, height = parse_aspect(aspect)
    elif geometry is not None:
        width, height = geometry.size
    elif options.tiles == WHOLE:
        width, height = 1, 1
    else:
        raise ExportError(
            f"--tiles {options.tiles} needs the camera's aspect; give --aspect W:H as well"
        )
    scale = CAMERA_EDGE / max(width, height)
    camera = max(1, round(width * scale)), max(1, round(height * scale))
    guessed = aspect is None and geometry is None
    return TilesWish(options.tiles, camera, options.image_tokens, guessed=guessed)


def aspect_grid(side: int, patch: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of the least band of a square grid that holds pictures of an aspect.

    No row or column is padding only: what reaches into the next patch by less than half a pixel
    does not get one.
    """
    # Whole pixels first, then whole patches.
    pixels = (max(1, round(side * patch * part / max(aspect))) for part in aspect)
    columns, rows = (-(-length // patch) for length in pixels)
    return columns, rows


def _grid(spec: BundleSpec, own: Positions) -> tuple[int, int]:
    """Columns and rows of the geometry in bundle.yaml, or of the tower's own square."""
    if spec.geometry is None:
        return own.side, own.side
    (width, height), patch = spec.geometry.size, own.patch
    if width % patch or height % patch:
        raise ExportError(
            f"the geometry {width}x{height} is not a whole number of patches of {patch} pixels; "
            f"the nearest is {round(width / patch) * patch}x{round(height / patch) * patch}"
        )
    return width // patch, height // patch


def grid_of_processor(processor: ProcessorSpec, own: Positions) -> tuple[int, int]:
    """Columns and rows that the tower reads of what the processor gives.

    Pixels after the last whole patch are cut off, as the patch embedding leaves them out.

    Raises:
        ExportError: the tower has no positions for so many patches.
    """
    width, height = processor.size
    columns, rows = width // own.patch, height // own.patch
    if not own.fits(columns, rows):
        side = own.image_size
        raise ExportError(
            f"the checkpoint's image processor does not fit the tower: it outputs {width}x{height} "
            f"pixels, but the tower takes {side}x{side} in patches of {own.patch}; set size and "
            "crop_size in preprocessor_config.json"
        )
    return columns, rows
