# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The shapes that a manifest implies for the tensors of a bundle's graphs."""

from __future__ import annotations

from vlm_perception.bundle.manifest import LanguageSpec, Manifest


def tensor_shapes(manifest: Manifest, graph: str) -> dict[str, tuple[int | str, ...]]:
    """Shapes of a graph's tensors as a manifest describes them; a word is any size.

    Args:
        manifest: describes the bundle.
        graph: the graph's file.
    """
    image, vision, text = manifest.image, manifest.vision, manifest.text
    if graph.startswith("vision."):
        return {
            "image": (1, image.height, image.width, 3),
            "pooled": (1, vision.embedding_width),
            "tokens": (1, vision.tokens, vision.token_width),
            "patches": (1, vision.tokens, vision.embedding_width),
        }
    if graph == "text.onnx":
        return {
            "input_ids": ("texts", text.length),
            "embedding": ("texts", vision.embedding_width),
        }
    if graph == "adapt.onnx":
        return {
            "written": ("classes", vision.embedding_width),
            "features": (3, "classes", vision.embedding_width),
        }
    if graph == "temporal.onnx" and (temporal := manifest.temporal) is not None:
        return {
            "memory": (1, temporal.slots, vision.embedding_width),
            "event": (1, temporal.event_width),
            "evidence": (1, sum(len(readout.choices) for readout in temporal.readouts)),
        }
    if graph == "projector.onnx" and manifest.language is not None and not manifest.language.tower:
        return {
            "tokens": (1, vision.tokens, vision.token_width),
            "token_index": (1, vision.tokens),
            "embeds": (1, manifest.language.image_tokens, manifest.language.read_width),
        }
    return _language_shapes(manifest.language, graph) if manifest.language is not None else {}


def _language_shapes(spec: LanguageSpec, graph: str) -> dict[str, tuple[int | str, ...]]:
    tower = spec.tower
    if graph == "language_vision.onnx" and tower is not None:
        return {
            "image": (1, *tower.view_shape[1:]),
            "tokens": (1, tower.tokens, tower.token_width),
        }
    if graph == "projector.onnx" and tower is not None:
        return {
            "tokens": (tower.views, tower.tokens, tower.token_width),
            "embeds": (1, spec.image_tokens, spec.read_width),
        }
    if graph == "decoder.onnx":
        return {
            "inputs_embeds": ("batch", "new", spec.read_width),
            "past": (spec.layers, 2, "batch", spec.kv_heads, "past", spec.head_dim),
            "logits": ("batch", "rows", spec.vocabulary_size),
        }
    return {}
