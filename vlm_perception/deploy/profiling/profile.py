# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What each layer of a bundle computes, moves and takes, measured here or projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    TEXT_GRAPH,
    VISION_GRAPH,
    ModelBundle,
)
from vlm_perception.bundle.manifest import LanguageSpec
from vlm_perception.deploy.onnx.graph import load_graph
from vlm_perception.deploy.profiling.cost import Cost, CostModel
from vlm_perception.deploy.profiling.devices import Device, find_device
from vlm_perception.deploy.profiling.layer_times import (
    example_inputs,
    measure_layers,
    names_of_layers,
)
from vlm_perception.deploy.profiling.layers import Names, layer_of_nodes
from vlm_perception.perception.tokenizer import TextTokenizer

# A caption of a sentence; the nodes' limit is 40.
CAPTION_TOKENS = 24
# As the nodes run.
THREADS = 1
RUNS = 20
UNATTRIBUTED = "unattributed"


@dataclass(frozen=True)
class Phase:
    """One use of a graph while an image is analysed."""

    name: str
    graph: str
    names: Names
    shapes: Mapping[str, tuple[int, ...]]
    repeats: int = 1
    """How often an analysis runs it; 0 for what an image does not need."""


@dataclass(frozen=True)
class LayerProfile:
    """A layer's work, and how long it takes once."""

    name: str
    cost: Cost
    seconds: float
    bound: Literal["memory", "compute"] | None
    """None where there is no work to judge by."""


@dataclass(frozen=True)
class PhaseProfile:
    """A phase's layers, for one run of its graph."""

    phase: Phase
    layers: tuple[LayerProfile, ...]
    seconds: float
    """One run: the sum of the layers when it is projected, measured without the profiler here."""

    @property
    def cost(self) -> Cost:
        """All layers, once."""
        return sum((layer.cost for layer in self.layers), Cost())


@dataclass(frozen=True)
class Profile:
    """A bundle on a device."""

    bundle: str
    digest: str
    device: Device
    phases: tuple[PhaseProfile, ...]
    image_tokens: int
    prompt_tokens: int
    caption_tokens: int
    model_bytes: int
    cache_bytes: int
    """Keys and values at the end of a caption."""

    @property
    def seconds(self) -> float:
        """One image, with its caption where there is a language model."""
        return sum(each.seconds * each.phase.repeats for each in self.phases)

    def share(self, phase: PhaseProfile) -> float:
        """A phase's part of that time."""
        return phase.seconds * phase.phase.repeats / self.seconds


def profile_bundle(bundle: ModelBundle, device: str) -> Profile:
    """Count a bundle's layers and time them, on this machine or by a device's roofline.

    Raises:
        ExportError: the device or an operator of a graph is not known.
    """
    chosen = find_device(device, threads=THREADS)
    language = bundle.manifest.language
    prompt = _prompt_tokens(bundle, language) if language is not None else 0
    image = language.image_tokens if language is not None else bundle.manifest.vision.tokens
    cached = image + prompt + CAPTION_TOKENS
    return Profile(
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        device=chosen,
        phases=tuple(_profile_phase(bundle, each, chosen) for each in phases_of(bundle, prompt)),
        image_tokens=image,
        prompt_tokens=prompt,
        caption_tokens=CAPTION_TOKENS if language is not None else 0,
        model_bytes=sum(
            entry.bytes
            for name, entry in bundle.manifest.files.items()
            if name.endswith((".onnx", ".onnx.data", ".npy"))
        ),
        cache_bytes=language.kv_bytes_per_token * cached if language is not None else 0,
    )


def phases_of(bundle: ModelBundle, prompt: int) -> list[Phase]:
    """What an image goes through, with a prompt of this many tokens around it."""
    manifest = bundle.manifest
    vision, language = manifest.vision, manifest.language
    phases = [Phase("encoder", VISION_GRAPH, Names("patch embedding", "pooling head"), {})]
    if language is not None:
        length = language.image_tokens + prompt
        tokens = {"tokens": (1, vision.tokens, vision.token_width)}
        if (tower := language.tower) is not None:
            tokens = {"tokens": (tower.views, tower.tokens, tower.token_width)}
            own = Names("patch embedding", "last layer")
            phases.append(
                Phase("language tower", LANGUAGE_VISION_GRAPH, own, {}, repeats=tower.views)
            )
        phases += [
            Phase("projector", PROJECTOR_GRAPH, Names("projector", "projector"), tokens),
            _decoder_phase("prefill", language, new=length, past=0, repeats=1),
            _decoder_phase("decode", language, new=1, past=length, repeats=CAPTION_TOKENS),
        ]
    text = {"input_ids": (1, manifest.text.length)}
    phases.append(
        Phase("text tower", TEXT_GRAPH, Names("token embedding", "pooling head"), text, repeats=0)
    )
    return phases


def _decoder_phase(name: str, spec: LanguageSpec, *, new: int, past: int, repeats: int) -> Phase:
    return Phase(
        name,
        DECODER_GRAPH,
        Names("positions", "output head"),
        {
            "inputs_embeds": (1, new, spec.read_width),
            "past": (spec.layers, 2, 1, spec.kv_heads, past, spec.head_dim),
            "position_ids": (1, new),
            "mask": (1, 1, new, past + new),
            "logit_rows": (1,),
        },
        repeats,
    )


def _prompt_tokens(bundle: ModelBundle, spec: LanguageSpec) -> int:
    """Tokens of the caption's prompt, before and after the image."""
    tokenizer = TextTokenizer(bundle.file(spec.tokenizer))
    before, after = spec.prompt.split("{image}", 1)
    behind = tokenizer.encode_template(after, spec.caption_prompt)
    return len(tokenizer.encode_template(before)) + len(behind)


def _profile_phase(bundle: ModelBundle, phase: Phase, device: Device) -> PhaseProfile:
    path = bundle.file(phase.graph)
    graph = load_graph(path, phase.shapes)
    layers = layer_of_nodes(graph, phase.names)
    model = CostModel(graph, device.float_bytes)
    costs: dict[str, Cost] = {}
    for index, name in layers.items():
        costs[name] = costs.get(name, Cost()) + model.cost(graph.nodes[index])
    ordered = _in_order(costs, phase.names)
    if device.origin == "datasheet":
        projected = tuple(
            LayerProfile(name, cost, device.roofline_seconds(cost), device.bound(cost))
            for name, cost in ordered
        )
        return PhaseProfile(phase, projected, sum(layer.seconds for layer in projected))
    times = measure_layers(
        path,
        example_inputs(graph),
        names_of_layers(graph, layers),
        threads=THREADS,
        runs=RUNS,
    )
    rows = [
        LayerProfile(name, cost, times.layers.get(name, 0.0), device.bound(cost))
        for name, cost in ordered
    ]
    rows.append(LayerProfile(UNATTRIBUTED, Cost(), times.unattributed, None))
    return PhaseProfile(phase, tuple(rows), times.run)


def _in_order(costs: dict[str, Cost], names: Names) -> Sequence[tuple[str, Cost]]:
    """The layers from the input to the output."""
    middle = [name for name in costs if name not in {names.before, names.behind}]
    ends = dict.fromkeys([names.before, *middle, names.behind])
    return [(name, costs[name]) for name in ends if name in costs]
