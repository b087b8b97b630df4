# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory the nodes will take for a bundle in ONNX Runtime, known before they take it.

Weights that are stored in FP16 are held in FP32, those in INT8 and INT4 as they are. Activations
are those of the widest layer: the scores of its attention before and after the softmax, with heads
of 64, and the inside of its feed-forward part.
"""

from __future__ import annotations

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    TEXT_GRAPH,
    VISION_GRAPH,
)
from vlm_perception.bundle.manifest import LanguageSpec, Manifest

PROCESS_BYTES = 210_000_000
"""A node with its libraries and without a model; OpenVINO takes some 100 MB more."""
HEAD_WIDTH = 64
INNER = 4
"""How much wider a feed-forward part is inside."""
FLOAT_BYTES = 4
HALF_BYTES = 2
KEPT_FRAMES = 8
"""So many of its newest frames vision_encoder keeps at most, for who may want one: a quarter of a
second at 30 Hz."""
KEPT_FRAMES_BYTES = 32 << 20
"""What it keeps of them for one kind of reader at most, except for the newest; the images, which
are most of it, are the same for all kinds."""


def encoder_bytes(manifest: Manifest) -> int:
    """Memory of vision_encoder; with the text tower where that embeds the labels at each start.

    The newest frames count, of which it keeps images and patches while language_reasoner runs.
    """
    vision = manifest.vision
    widths = HALF_BYTES * vision.token_width + FLOAT_BYTES * vision.embedding_width
    kept = KEPT_FRAMES_BYTES + KEPT_FRAMES * vision.tokens * widths
    text = 0 if manifest.label_embeddings is not None else _weights(manifest, TEXT_GRAPH)
    activations = activation_bytes(vision.tokens, vision.token_width)
    return PROCESS_BYTES + _weights(manifest, VISION_GRAPH) + activations + text + kept


def text_process_bytes(manifest: Manifest) -> int:
    """Memory of the process that embeds other labels than the bundle's, while it does."""
    return PROCESS_BYTES + _weights(manifest, TEXT_GRAPH)


def language_bytes(manifest: Manifest, spec: LanguageSpec) -> int:
    """Memory of language_reasoner; token embeddings stay in their file."""
    weights = _weights(manifest, PROJECTOR_GRAPH) + _weights(manifest, DECODER_GRAPH)
    activations = activation_bytes(spec.image_tokens, spec.width)
    if (tower := spec.tower) is not None:
        weights += _weights(manifest, LANGUAGE_VISION_GRAPH)
        # Of one view at a time; engines keep what they once took.
        # Tokens of several layers stand side by side where the decoder reads several.
        activations += activation_bytes(tower.tokens, tower.token_width // (1 + spec.stacked))
    return PROCESS_BYTES + weights + activations + spec.kv_bytes_per_image


def activation_bytes(tokens: int, width: int) -> int:
    """Memory of a transformer's widest layer."""
    scores, inner = tokens**2 * -(-width // HEAD_WIDTH), tokens * width * INNER
    return 2 * FLOAT_BYTES * (scores + inner)


def _weights(manifest: Manifest, file: str) -> int:
    """Bytes of a file's weights when they are loaded."""
    stored = sum(
        entry.bytes for name, entry in manifest.files.items() if name in (file, f"{file}.data")
    )
    return stored if file in manifest.golden.cosine else 2 * stored
