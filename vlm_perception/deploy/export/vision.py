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
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.compression.heads import IMAGES, prune_heads
from vlm_perception.deploy.compression.latency_budget import fit_to_device
from vlm_perception.deploy.export.input_geometry import Geometry
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.validation.images import ImageSets, read_image
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.modeling.towers.trunk import KnownTower
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.perception.preprocess import Preprocessor


@dataclass(frozen=True)
class Vision:
    """A vision tower as it is exported, and what was taken from it."""

    graph: VisionTower
    keep: tuple[KeepStep, ...]
    head_steps: tuple[HeadStep, ...]


def lay_out_vision(
    source: Checkpoint, geometry: Geometry, options: ExportOptions, images: ImageSets | None
) -> Vision:
    """Lay out a checkpoint's vision tower; heads that go are zeros in the checkpoint afterwards.

    Raises:
        ExportError: the schedule of token pruning does not fit the tower.
    """
    image, blocks = geometry.image, source.vision_parts.blocks
    build = partial(
        source.family.vision,
        source.dual,
        positions=geometry.positions,
        mean=image.mean,
        std=image.std,
        feature_layers=feature_layers(source),
    )
    head_steps: list[HeadStep] = []
    if options.heads < 1.0 and images is not None:
        examples = fit_images(images.calibration[:IMAGES], image)
        attentions = [block.attention for block in blocks]
        head_steps = prune_heads(attentions, build(), examples, options.heads)
    keep: tuple[KeepStep, ...] = ()
    if options.budget_ms is not None:
        keep = fit_to_device(build, image, options.budget_ms)
    elif options.keep is not None:
        keep = parse_schedule(options.keep, len(blocks), image.columns * image.rows)
    graph = build(keep=keep, random_seed=0 if options.random_tokens else None)
    return Vision(graph, keep, tuple(head_steps))


def feature_layers(source: Checkpoint) -> list[int]:
    """Which hidden states of the dual encoder's tower the projector reads, if it does.

    Raises:
        ExportError: as `read_layers`.
    """
    if source.vlm is None or source.language_tower is not None:
        return [-1]
    return read_layers(source, source.family.vision, len(source.vision_parts.blocks))


def read_layers(source: Checkpoint, tower: type[KnownTower], most: int) -> list[int]:
    """Which hidden states of a tower the projector reads, without class tokens.

    States are counted from the start: the language model's own tower may have fewer layers.

    Args:
        source: has a language model.
        tower: the one that it reads.
        most: layers of that.

    Raises:
        ExportError: they are not those of the patches, or the tower has too few layers.
    """
    assert source.vlm is not None
    config = source.vlm.config
    # Idefics3 has no choice: it reads the last.
    chosen = getattr(config, "vision_feature_layer", -1)
    drops_first = getattr(config, "vision_feature_select_strategy", "full") == "default"
    has_class_token = tower.class_tokens > 0
    if drops_first and not has_class_token:
        raise ExportError(
            "vlm/ selects features with the strategy `default`, which drops the first patch of a "
            "tower without class token; set vision_feature_select_strategy to `full` and retrain"
        )
    if has_class_token and not drops_first:
        raise ExportError(
            "vlm/ reads the class token as well (vision_feature_select_strategy `full`), which has "
            "no position in the image; only `default` is supported with such a tower"
        )
    states = len(source.language_vision_parts.blocks) + 1
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    # DeepStack reads what some layers give, counted without what goes into the first.
    earlier = getattr(config.vision_config, "deepstack_visual_indexes", ())
    layers += [layer + 1 for layer in sorted(earlier)]
    if not all(-states <= layer < states and layer % states <= most for layer in layers):
        raise ExportError(
            f"vlm/ reads the hidden states {layers} of a tower with {states - 1} layers, but the "
            f"exported tower has {most}"
        )
    return [layer % states for layer in layers]


def fit_images(paths: Sequence[Path], image: ImageSpec) -> Tensor:
    """Images as the vision graph takes them, [N, height, width, 3] uint8."""
    preprocessor = Preprocessor(image)
    fitted = [preprocessor.run(read_image(path))[0].copy() for path in paths]
    return torch.from_numpy(np.concatenate(fitted))
