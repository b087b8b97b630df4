# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoint's own image processor, and what it does to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_backends import PilBackend

from vlm_perception.bundle.manifest import ProcessorSpec
from vlm_perception.common.export_error import ExportError

RESAMPLES = ("bilinear", "hamming", "bicubic", "lanczos")
# Processors of transformers carry no types.
Processor = Any


def load_any_processor(directory: Path) -> Processor:
    """The image processor that is saved in a directory, in transformers' Pillow version.

    Raises:
        ExportError: there is none.
    """
    try:
        return AutoImageProcessor.from_pretrained(directory, backend="pil", local_files_only=True)
    # transformers raises many kinds here.
    except Exception as error:
        raise ExportError(
            f"the image processor in {directory} cannot be loaded: {error}"
        ) from error


def load_processor(directory: Path) -> Processor:
    """The image processor that is saved in a directory, if it gives images of one size.

    Raises:
        ExportError: there is none, or it does more than resize, crop and normalise.
    """
    processor = load_any_processor(directory)
    if getattr(type(processor), "_preprocess", None) is not PilBackend._preprocess:
        raise ExportError(
            f"{directory} has a {type(processor).__name__}, which does more than resize, crop and "
            "normalise; give --aspect W:H instead of --geometry checkpoint"
        )
    return processor


def processor_spec(processor: Processor, *, fast: bool = False) -> ProcessorSpec:
    """What a processor does to an image before it is normalised.

    Args:
        processor: of transformers, as `load_processor` gives it.
        fast: take area averages in place of its filter.

    Raises:
        ExportError: images of different sizes would not come out in one size.
    """
    size, crop = processor.size, processor.crop_size
    pads = bool(getattr(processor, "do_pad", False))
    by_edge = size is not None and size.shortest_edge and not size.longest_edge
    exact = size is not None and size.height and size.width
    resample = Image.Resampling(processor.resample).name.lower()
    if not processor.do_resize or pads or not (exact or (by_edge and processor.do_center_crop)):
        raise ExportError(
            f"the {type(processor).__name__} with size {dict(size or {})}, do_resize "
            f"{processor.do_resize}, do_center_crop {processor.do_center_crop} and do_pad {pads} "
            "does not produce images of one size by resizing and cropping; give --aspect W:H "
            "instead of --geometry checkpoint"
        )
    if resample not in RESAMPLES:
        raise ExportError(
            f"the {type(processor).__name__} resamples with {resample}; supported are "
            f"{', '.join(RESAMPLES)}"
        )
    return ProcessorSpec.model_validate(
        {
            "resample": "area" if fast else resample,
            "resize": size.shortest_edge if by_edge else (size.width, size.height),
            "crop": (crop.width, crop.height) if processor.do_center_crop else None,
        }
    )
