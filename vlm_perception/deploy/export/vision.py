# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision tower as the options want it: with fewer attention heads and fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_perception.bundle.manifest import HeadStep, ImageSpec, KeepStep
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.compression.heads import IMAGES, prune_heads
from vlm_perception.deploy.compression.latency_budget import fit_to_device
from vlm_perception.deploy.export.input_geometry import Geometry
from vlm_perception.deploy.export.manifest_fields import feature_selection
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.validation.images import ImageSets, read_image
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.modeling.vision_tower import VisionGraph
from vlm_perception.perception.vision.preprocess import Preprocessor


@dataclass(frozen=True)
class Vision:
    """A vision graph, and what was taken from it."""

    graph: VisionGraph
    keep: tuple[KeepStep, ...]
    head_steps: tuple[HeadStep, ...]


def lay_out_vision(
    source: Checkpoint, geometry: Geometry, options: ExportOptions, images: ImageSets | None
) -> Vision:
    """Lay out a checkpoint's vision tower; heads that go are zeros in the checkpoint afterwards.

    Raises:
        ExportError: the schedule of token pruning does not fit the tower.
    """
    layers, drop_class = feature_selection(source)
    image = geometry.image
    build = partial(
        VisionGraph,
        source.dual,
        positions=geometry.positions,
        mean=image.mean,
        std=image.std,
        feature_layers=layers,
        drop_class_token=drop_class,
    )
    head_steps: list[HeadStep] = []
    if options.heads < 1.0 and images is not None:
        examples = fit_images(images.calibration[:IMAGES], image)
        head_steps = prune_heads(source.dual, build(), examples, options.heads)
    keep: tuple[KeepStep, ...] = ()
    if options.budget_ms is not None:
        keep = fit_to_device(build, image, options.budget_ms)
    elif options.keep is not None:
        depth = source.dual.config.vision_config.num_hidden_layers
        keep = parse_schedule(options.keep, depth, image.columns * image.rows)
    graph = build(keep=keep, random_seed=0 if options.random_tokens else None)
    return Vision(graph, keep, tuple(head_steps))


def fit_images(paths: Sequence[Path], image: ImageSpec) -> Tensor:
    """Images as the vision graph takes them, [N, height, width, 3] uint8."""
    preprocessor = Preprocessor(image)
    fitted = [preprocessor.run(read_image(path))[0].copy() for path in paths]
    return torch.from_numpy(np.concatenate(fitted))
