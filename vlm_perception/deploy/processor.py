# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoint's own image processor: what it does, and how far a bundle is from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_backends import PilBackend

from vlm_perception.bundle import VISION_GRAPH, ModelBundle, ProcessorSpec
from vlm_perception.deploy.checkpoint import Checkpoint
from vlm_perception.deploy.errors import ExportError
from vlm_perception.perception.preprocess import Preprocessor

RESAMPLES = get_args(ProcessorSpec.model_fields["resample"].annotation)
# Processors of transformers carry no types.
Processor = Any


@dataclass(frozen=True)
class Drift:
    """Cosine of a bundle's pooled embedding with transformers', over some images."""

    images: int
    mean: float
    worst: float


def load_processor(directory: Path) -> Processor:
    """The image processor that is saved in a directory, in transformers' Pillow version.

    Raises:
        ExportError: there is none, or it does more than resize, crop and normalise.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True
        )
    # transformers raises many kinds here.
    except Exception as error:
        raise ExportError(
            f"the image processor in {directory} cannot be loaded: {error}"
        ) from error
    if getattr(type(processor), "_preprocess", None) is not PilBackend._preprocess:
        raise ExportError(
            f"{directory} has a {type(processor).__name__}, which does more than resize, crop and "
            "normalise; such images need another geometry: give --aspect W:H"
        )
    return processor


def processor_spec(processor: Processor) -> ProcessorSpec:
    """What a processor does to an image before it is normalised.

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
            f"the {type(processor).__name__} with size {dict(size or {})}, "
            f"do_resize {processor.do_resize}, do_center_crop {processor.do_center_crop} and "
            f"do_pad {pads} gives no images of one size by resizing and cropping; give --aspect "
            "W:H in place of --geometry checkpoint"
        )
    if resample not in RESAMPLES:
        raise ExportError(
            f"the {type(processor).__name__} resamples by {resample}; supported are "
            f"{', '.join(RESAMPLES)}"
        )
    return ProcessorSpec.model_validate(
        {
            "resample": resample,
            "resize": size.shortest_edge if by_edge else (size.width, size.height),
            "crop": (crop.width, crop.height) if processor.do_center_crop else None,
        }
    )


def processed_pooled(
    source: Checkpoint, processor: Processor, image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """What transformers gives for an image [H, W, 3] behind this processor: [D], normalised.

    Raises:
        ExportError: the tower does not take what the processor gives.
    """
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    try:
        with torch.no_grad():
            pooled = source.dual.get_image_features(pixel_values=pixels).pooler_output[0]
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"the processor in dual/ does not fit its tower, it makes images of "
            f"{pixels.shape[3]}x{pixels.shape[2]}: {error}"
        ) from error
    result: NDArray[np.float32] = (pooled / pooled.norm()).numpy()
    return result


def processor_drift(
    bundle: ModelBundle, source: Checkpoint, images: Iterable[NDArray[np.uint8]]
) -> Drift:
    """How far a bundle's pooled embeddings are from transformers' behind the own processor.

    Args:
        bundle: runs with its own preprocessing, as on the robot.
        source: the checkpoint as it was loaded, before anything was pruned.
        images: RGB [H, W, 3], of any sizes; at least one.

    Raises:
        ExportError: the processor cannot be used, or does not fit the tower.
    """
    processor = load_processor(source.path / "dual")
    preprocessor = Preprocessor(bundle.manifest.image)
    engine = bundle.engine(VISION_GRAPH)
    cosines = []
    for image in images:
        pixels, _ = preprocessor.run(image)
        ours = engine.run({"image": pixels})["pooled"][0]
        cosines.append(float(ours @ processed_pooled(source, processor, image)))
    return Drift(len(cosines), float(np.mean(cosines)), float(np.min(cosines)))
