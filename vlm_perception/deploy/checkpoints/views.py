# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a language model's own processor fits an image into its own vision tower, as one view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from vlm_perception.bundle.manifest import ProcessorSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.image_processor import (
    RESAMPLES,
    load_processor,
    processor_spec,
)

# Processors of transformers carry no types.
Processor = Any
LARGEST_EDGE = 4096
"""transformers' Idefics3ImageProcessor shrinks what is larger in a way of its own."""


@dataclass(frozen=True)
class ViewFit:
    """How an image becomes one view; the names are those of `TowerSpec`."""

    processor: ProcessorSpec
    longest_edge: int | None = None
    square: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ViewReader:
    """A family's processor: what it does to an image that is one view, and itself."""

    load: Callable[[Path], Processor]
    fit: Callable[[Processor], ViewFit]
    pixels: Callable[[Processor, Image.Image], Tensor]
    """Its own outputs for an image, [1, 3, H, W]."""


def _load_any(directory: Path) -> Processor:
    try:
        return AutoImageProcessor.from_pretrained(directory, backend="pil", local_files_only=True)
    # transformers raises many kinds here.
    except Exception as error:
        raise ExportError(
            f"the image processor in {directory} cannot be loaded: {error}"
        ) from error


def _fit_plainly(processor: Processor) -> ViewFit:
    return ViewFit(processor_spec(processor))


def _pixels_plainly(processor: Processor, image: Image.Image) -> Tensor:
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    return pixels


def _fit_idefics3(processor: Processor) -> ViewFit:
    """Stretched to a square, by way of a larger image of its own aspect."""
    edge, size = processor.max_image_size["longest_edge"], processor.size
    longest = size.longest_edge if processor.do_resize else None
    if not processor.do_resize or not longest or longest > LARGEST_EDGE:
        raise ExportError(
            f"the {type(processor).__name__} of vlm/ with size {dict(size or {})} and do_resize "
            f"{processor.do_resize} is not supported; set size to a longest_edge of at most "
            f"{LARGEST_EDGE} in vlm/preprocessor_config.json"
        )
    return ViewFit(_stretched(processor, edge, edge), longest_edge=longest)


def _pixels_idefics3(processor: Processor, image: Image.Image) -> Tensor:
    pixels: Tensor = processor(images=image, do_image_splitting=False, return_tensors="pt")[
        "pixel_values"
    ]
    return pixels[0]


def _fit_onevision(processor: Processor) -> ViewFit:
    """As it fits each of several images: made a square in the mean colour, then resized."""
    size = processor.size
    if not (processor.do_resize and size.height and size.width) or processor.do_center_crop:
        raise ExportError(
            f"the {type(processor).__name__} of vlm/ with size {dict(size or {})}, do_resize "
            f"{processor.do_resize} and do_center_crop {processor.do_center_crop} is not "
            "supported; set size to height and width in vlm/preprocessor_config.json"
        )
    red, green, blue = (int(value * 255) for value in processor.image_mean)
    return ViewFit(_stretched(processor, size.width, size.height), square=(red, green, blue))


def _pixels_onevision(processor: Processor, image: Image.Image) -> Tensor:
    # transformers cuts an image into tiles only where it is the only one of its prompt.
    pixels: Tensor = processor(images=[[image, image]], return_tensors="pt")["pixel_values"]
    return pixels[0]


def _stretched(processor: Processor, width: int, height: int) -> ProcessorSpec:
    resample = Image.Resampling(processor.resample).name.lower()
    if resample not in RESAMPLES:
        raise ExportError(
            f"the {type(processor).__name__} of vlm/ resamples with {resample}; supported are "
            f"{', '.join(RESAMPLES)}"
        )
    return ProcessorSpec.model_validate(
        {"resample": resample, "resize": (width, height), "crop": None}
    )


PLAIN = ViewReader(load_processor, _fit_plainly, _pixels_plainly)
IDEFICS3 = ViewReader(_load_any, _fit_idefics3, _pixels_idefics3)
ONEVISION = ViewReader(_load_any, _fit_onevision, _pixels_onevision)
