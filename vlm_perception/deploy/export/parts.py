# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The graphs of a bundle, each with the example that becomes its golden input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    TEMPORAL_GRAPH,
    TEXT_GRAPH,
    VISION_GRAPH,
)
from vlm_perception.bundle.golden import TOKEN_INDEX
from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.machine import return_memory
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.export.language_vision import LanguageVision
from vlm_perception.engines.onnxruntime import OnnxRuntimeEngine
from vlm_perception.modeling.bridge_spec import StoredBridge
from vlm_perception.modeling.decoder import DecoderGraph
from vlm_perception.modeling.projectors import ArrangedGraph, as_embeddings
from vlm_perception.modeling.temporal_attention import TemporalAttention
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.perception.vision.temporal_state import EMPTY

Golden = dict[str, NDArray[Any]]
"""Inputs and outputs of graphs, by names as `vision.onnx/out/pooled`."""


@dataclass(frozen=True)
class Part:
    """A graph to be exported, with the example that becomes its golden input."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]

    @cached_property
    def results(self) -> dict[str, Tensor]:
        """What the network gives for its inputs in torch, by the names of the outputs."""
        with torch.no_grad():
            result = self.module(*self.inputs.values())
        values = result if isinstance(result, tuple) else (result,)
        return dict(zip(self.outputs, values, strict=True))


def parts_of(
    source: Checkpoint,
    vision: VisionTower,
    image: ImageSpec,
    own: LanguageVision | None,
    before: int,
) -> list[Part]:
    """All graphs of a checkpoint's bundle, around its vision towers as they are exported.

    Args:
        source: the checkpoint.
        vision: the vision tower.
        image: what it takes.
        own: the language model's own.
        before: tokens of a prompt before the image.

    Raises:
        ExportError: an image takes all positions of the decoder.
    """
    seeing = vision_part(vision, image)
    parts = [text_part(source), seeing]
    if source.vlm is not None:
        tokens, index = seeing.results["tokens"], seeing.results.get(TOKEN_INDEX)
        if own is not None:
            looking, image = language_vision_part(own), own.image
            tokens = looking.results["tokens"].expand(own.views, -1, -1).clone()
            parts.append(looking)
        projector = projector_part(source, tokens, image, index)
        embeds = projector.results["embeds"]
        _require_room(source, embeds.shape[1])
        assert source.vlm_family is not None
        places = None
        if (find := source.vlm_family.places) is not None:
            places = find(source.vlm, (image.columns, image.rows), before)
        stacked = embeds.shape[2] // source.decoder.config.hidden_size - 1
        parts += [projector, decoder_part(source, places, stacked)]
    if source.temporal is not None:
        parts.append(temporal_part(source.temporal))
    return parts


def _require_room(source: Checkpoint, image_tokens: int) -> None:
    if image_tokens >= source.positions:
        raise ExportError(
            f"an image takes {image_tokens} tokens, and the decoder of vlm/ has {source.positions} "
            "positions for it and all texts; export with fewer --tiles, or a smaller image"
        )


def vision_part(vision: VisionTower, image: ImageSpec) -> Part:
    """The vision tower."""
    pixels = torch.from_numpy(_golden_image(image.width, image.height))
    outputs = ("pooled", "tokens", "patches", *(["token_index"] if vision.keep else []))
    return Part(VISION_GRAPH, vision, {"image": pixels}, outputs, {})


def language_vision_part(own: LanguageVision) -> Part:
    """The language model's own vision tower."""
    pixels = torch.from_numpy(_golden_image(own.image.width, own.image.height))
    return Part(LANGUAGE_VISION_GRAPH, own.graph, {"image": pixels}, ("tokens",), {})


def _golden_image(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth waves in three colours and a few sharp blocks, [1, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + 4 * c) + c) * np.cos(y / (7 + 3 * c)) for c in range(3)]
    image = np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (230, 20, 30)
    image[height // 2 :, width // 2 : width // 2 + width // 8] = (10, 200, 60)
    return image[np.newaxis]


def text_part(source: Checkpoint) -> Part:
    """The text tower, for texts padded to the longest that it reads."""
    config, tower, length = source.dual.config.text_config, source.family.text, source.text_length
    ids = torch.arange(2 * length).reshape(2, length) % config.vocab_size
    if tower.reads_end:
        ids[:, -1] = config.eos_token_id
    return Part(
        TEXT_GRAPH,
        tower(source.dual, length),
        {"input_ids": ids},
        ("embedding",),
        {"input_ids": {0: "texts"}},
    )


def projector_part(
    source: Checkpoint, tokens: Tensor, image: ImageSpec, index: Tensor | None
) -> Part:
    """The projector from image tokens to the decoder.

    Args:
        source: the checkpoint.
        tokens: an example.
        image: what they are of.
        index: places of the tokens [K], where some are missing.

    Raises:
        ExportError: the tokens are not those that the bridge was trained on.
    """
    assert source.vlm is not None
    assert source.vlm_family is not None
    grid, fixed = (image.columns, image.rows), source.language_tower is not None
    if source.bridge is not None:
        return bridge_part(source, source.bridge, tokens, grid, index)
    read = source.language_vision_parts if fixed else source.vision_parts
    module = source.vlm_family.projector(source.vlm.model, read.last_norm, grid)
    fixed = fixed or source.projector_needs_grid
    if source.view is not None:
        with torch.no_grad():
            rows = module(tokens).shape[1]
        found = source.view.arrange(source.vlm, source.vlm_tokenizer, rows)
        if found is not None:
            # As they are stored: the decoder's graph scales what it reads.
            table = source.vlm.get_input_embeddings().weight
            module = ArrangedGraph(module, table[list(found.between)], found.order)
    dynamic = {} if fixed else {"tokens": {1: "tokens"}}
    return Part(PROJECTOR_GRAPH, module, {"tokens": tokens}, ("embeds",), dynamic)


def bridge_part(
    source: Checkpoint,
    spec: StoredBridge,
    tokens: Tensor,
    grid: tuple[int, int],
    index: Tensor | None,
) -> Part:
    """A bridge in the place of the projector, for as many tokens as the tower gives.

    The arguments are those of `projector_part`; `grid`: columns and rows of the tower's patches.

    Raises:
        ExportError: the tokens are not those that the bridge was trained on.
    """
    assert source.vlm is not None
    if grid != spec.grid:
        raise ExportError(
            f"the bridge of vlm/ was trained on {spec.grid[0]}x{spec.grid[1]} patches, but this "
            f"geometry has {grid[0]}x{grid[1]}; choose the one that it was trained with"
        )
    module = as_embeddings(source.vlm.model.multi_modal_projector, source.decoder)
    inputs = {"tokens": tokens}
    if index is not None and spec.reads_places:
        inputs[TOKEN_INDEX] = index.unsqueeze(0)
    return Part(PROJECTOR_GRAPH, module, inputs, ("embeds",), {})


def decoder_part(source: Checkpoint, places: Tensor | None, stacked: int) -> Part:
    """The decoder, for prefill, decoding and packed questions.

    Args:
        source: the checkpoint.
        places: positions of its first tokens, as DecoderGraph takes them.
        stacked: layers that read features of an image.
    """
    assert source.vlm is not None
    decoder = source.decoder
    config = decoder.config
    # Sizes that differ from each other and from one, or the exporter would take them as fixed.
    batch, new, past = 2, 5, 3
    generator = torch.Generator().manual_seed(0)
    rows = decoder.embed_tokens.weight.detach()
    embeds = rows[torch.arange(batch * new) % rows.shape[0]].reshape(batch, new, -1)
    heads, head_dim = config.num_key_value_heads, decoder.layers[0].self_attn.head_dim
    shape = (config.num_hidden_layers, 2, batch, heads, past, head_dim)
    causal = torch.full((new, past + new), -1e9).triu(past + 1)
    keys_values = 0.1 * torch.randn(shape, generator=generator)
    # The image's last two tokens, where they have positions of their own, and text behind them.
    first = past if places is None else max(0, len(places) - 3)
    if stacked:
        features = (batch, new, stacked * embeds.shape[-1])
        embeds = torch.cat([embeds, torch.randn(features, generator=generator)], dim=-1)
    inputs = {
        "inputs_embeds": embeds,
        "past": keys_values,
        "position_ids": (torch.arange(new) + first).expand(batch, new).clone(),
        "mask": causal.expand(batch, 1, new, past + new).clone(),
        "logit_rows": torch.tensor([0, 1, 3, 4]),
    }
    dynamic = {
        "inputs_embeds": {0: "batch", 1: "new"},
        "past": {2: "batch", 4: "past"},
        "position_ids": {0: "batch", 1: "new"},
        "mask": {0: "batch", 2: "new", 3: "total"},
        "logit_rows": {0: "rows"},
    }
    module = DecoderGraph(decoder, source.vlm.lm_head, places, stacked)
    return Part(DECODER_GRAPH, module, inputs, ("logits", "new_kv"), dynamic)


def temporal_part(module: TemporalAttention) -> Part:
    """The temporal module, for a memory of fixed size; in the example half of it is empty."""
    config = module.config
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn((config.slots + 1, config.width), generator=generator)
    seen = torch.nn.functional.normalize(seen + 3.0 * seen[:1], dim=-1)
    order = torch.arange(config.slots)
    inputs = {
        "pooled": seen[:1],
        "memory": seen[None, 1:],
        "ages": torch.where(order < config.slots // 2, 0.1 * (order + 1), EMPTY)[None],
    }
    outputs = ("state", "event", "evidence") if config.readouts else ("state", "event")
    return Part(TEMPORAL_GRAPH, module, inputs, outputs, {})


def let_go(model: nn.Module, parts: Sequence[Part]) -> None:
    """Give back the memory of a model's weights, but for those that these parts read."""
    needed = {id(weight) for part in parts for weight in part.module.parameters()}
    for weight in model.parameters():
        if id(weight) not in needed:
            weight.data = weight.data.new_empty(0)
    return_memory()


def weights_to_half(parts: Sequence[Part]) -> None:
    """Hold the weights of parts that wait in FP16, where that loses nothing: half the memory."""
    # The dual encoder last: a file that it was loaded from is let go of as a whole.
    for part in reversed(parts):
        for weight in part.module.parameters():
            half = weight.data.half()
            lossless = torch.equal(half.float(), weight.data)
            weight.data = half if lossless else weight.data.clone()
        # A view into a checkpoint's file would keep all of it in memory.
        for buffer in part.module.buffers():
            buffer.data = buffer.data.clone()
    return_memory()


def weights_to_float(part: Part) -> None:
    """Undo `weights_to_half` for a part that is to compute."""
    for weight in part.module.parameters():
        weight.data = weight.data.float()


def golden_of(part: Part) -> Golden:
    """Inputs and what the network gives for them in torch."""
    inputs = {f"{part.name}/in/{name}": value.numpy() for name, value in part.inputs.items()}
    outputs = {f"{part.name}/out/{name}": value.numpy() for name, value in part.results.items()}
    return inputs | outputs


def golden_of_engine(graph: Path, part: Part) -> Golden:
    """What ONNX Runtime gives for a part's inputs: PyTorch cannot compute INT8."""
    engine = OnnxRuntimeEngine(graph)
    outputs = engine.run({name: part.inputs[name].numpy() for name in engine.inputs})
    return {f"{part.name}/out/{name}": value for name, value in outputs.items()}
