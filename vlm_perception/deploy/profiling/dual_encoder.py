# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a dual encoder of the hub costs, from the numbers of its config.json alone.

The vision tower is counted as the exported graph is (`CostModel`), without pruning and at the
tower's own square; the tests hold both against each other. T tokens of width W, an inner width I, P
patches, an embedding of width E.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.deploy.profiling.cost import Cost
from vlm_perception.deploy.tables.models import PublishedModel, TowerSizes

CHANNELS = 3


@dataclass(frozen=True)
class Parameters:
    """Numbers that a model has learned."""

    vision: int
    text: int

    @property
    def all(self) -> int:
        """Of both towers."""
        return self.vision + self.text


def count_parameters(model: PublishedModel) -> Parameters:
    """Count the parameters of a model; those of its score belong to the text."""
    vision, text, width = model.vision, model.text, model.embedding_width
    pixels = CHANNELS * vision.patch**2
    seen = pixels * vision.width + _blocks(vision) + 2 * vision.width
    read = (text.vocabulary + text.length + 2) * text.width + _blocks(text)
    if model.family == "siglip":
        attention = 4 * _linear(vision.width, vision.width)
        head = 3 * vision.width + attention + _feed_forward(vision)
        return Parameters(
            seen + (1 + vision.tokens) * vision.width + head, read + _linear(text.width, width) + 2
        )
    # A class token with a place of its own, and one more norm; no biases outside the layers.
    return Parameters(
        seen + (vision.tokens + 4) * vision.width + vision.width * width,
        read + text.width * width + 1,
    )


def encoder_layers(model: PublishedModel, float_bytes: int) -> list[Cost]:
    """What an image costs in the vision tower, layer by layer.

    Args:
        model: the model.
        float_bytes: bytes of a float where it runs.
    """
    vision = model.vision
    leading = model.family == "clip"
    tokens = vision.tokens + leading
    layer = [
        _attention(vision, tokens, float_bytes),
        _feed_forward_cost(model, tokens, float_bytes),
    ]
    head = _clip_head if leading else _siglip_head
    return [_patches(model, tokens, float_bytes), *vision.layers * layer, head(model, float_bytes)]


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _feed_forward(tower: TowerSizes) -> int:
    return _linear(tower.width, tower.inner) + _linear(tower.inner, tower.width)


def _blocks(tower: TowerSizes) -> int:
    norms = 4 * tower.width
    return tower.layers * (4 * _linear(tower.width, tower.width) + _feed_forward(tower) + norms)


def _patches(model: PublishedModel, tokens: int, size: int) -> Cost:
    vision = model.vision
    hidden, pixels = tokens * vision.width, CHANNELS * vision.image**2
    inputs = CHANNELS * vision.patch**2
    # CLIP has a class token and a norm there, SigLIP a bias.
    vectors, passes = (3, 7) if model.family == "clip" else (1, 3)
    return Cost(
        float_flops=2 * vision.tokens * inputs * vision.width,
        weight_bytes=size * (inputs * vision.width + hidden + vectors * vision.width),
        # The pixels come as bytes, become floats, change their order and are scaled.
        activation_bytes=pixels + size * (4 * pixels + passes * hidden),
    )


def _attention(tower: TowerSizes, tokens: int, size: int) -> Cost:
    hidden, scores = tokens * tower.width, tower.heads * tokens**2
    return Cost(
        float_flops=2 * (4 * hidden * tower.width + 2 * tokens * hidden),
        weight_bytes=size * (4 * _linear(tower.width, tower.width) + 2 * tower.width),
        # The norm, four products, heads that are laid out and back, and the sum; the scores are
        # written, normalised and read.
        activation_bytes=size * (29 * hidden + 4 * scores),
    )


def _feed_forward_cost(model: PublishedModel, tokens: int, size: int) -> Cost:
    tower = model.vision
    hidden, inner = tokens * tower.width, tokens * tower.inner
    # CLIP's QuickGELU reads its input twice.
    passes = 5 if model.family == "clip" else 2
    return Cost(
        float_flops=4 * hidden * tower.inner,
        weight_bytes=size * (_feed_forward(tower) + 2 * tower.width),
        activation_bytes=size * (5 * hidden + passes * inner),
    )


def _siglip_head(model: PublishedModel, size: int) -> Cost:
    """The probe's attention, then its output and feed-forward layers for it and each patch."""
    tower = model.vision
    tokens, width = tower.tokens, tower.width
    hidden, several = tokens * width, (tokens + 1) * width
    products = hidden * (width + tower.heads + 1) + several * (width + 2 * tower.inner)
    weights = 2 * _linear(width, width) + width * tower.heads + _feed_forward(tower) + 4 * width
    inner = (tokens + 1) * tower.inner
    return Cost(
        float_flops=2 * products,
        weight_bytes=size * weights,
        activation_bytes=size * (22 * hidden + 2 * inner + 6 * tokens * tower.heads),
    )


def _clip_head(model: PublishedModel, size: int) -> Cost:
    """The class token's projection, and the value path of the last layer for each patch."""
    tower, width = model.vision, model.embedding_width
    hidden, projected = tower.tokens * tower.width, tower.tokens * width
    products = hidden * (2 * tower.width + width) + tower.width * width
    weights = 2 * _linear(tower.width, tower.width) + 2 * tower.width * width + 6 * tower.width
    return Cost(
        float_flops=2 * products,
        weight_bytes=size * weights,
        activation_bytes=size * (13 * hidden + 4 * projected),
    )
