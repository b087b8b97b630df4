# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The graphs that TensorRT builds from a bundle: MatMuls in FP16 or INT8, all shapes fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    PROJECTOR_GRAPH,
    TEMPORAL_GRAPH,
    TEXT_GRAPH,
    VISION_GRAPH,
    ModelBundle,
)
from vlm_perception.bundle.manifest import LanguageSpec, TowerSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.onnx.fp16_matmuls import to_fp16_matmuls
from vlm_perception.deploy.onnx.graph import OnnxGraph, load_graph
from vlm_perception.engines.tensorrt.plan_store import plan_source
from vlm_perception.perception.tokenizer import TextTokenizer

Shapes = Mapping[str, tuple[int, ...]]

TEXT_TOKENS = 64
"""Tokens that the decoder reads at once after an image; longer texts are read in pieces."""
TEXT_ROOM = 256
"""Minimum number of tokens that the KV cache has room for after the image."""
CACHE_STEP = 64
"""The KV cache's length is a multiple of this."""
CACHED = ("past", "new_kv")


@dataclass(frozen=True)
class TensorRtGraph:
    """One graph as TensorRT is given it."""

    name: str
    """The bundle's graph that it computes."""
    source: str
    """The bundle's file that it is made of."""
    model: onnx.ModelProto
    profiles: tuple[tuple[str, Shapes], ...]
    """Sets of shapes of the inputs, with what each is for. A plan holds the weights once."""

    def write(self, bundle: ModelBundle, folder: Path) -> Path:
        """Write it as a file, with links to weights next to the bundle's file."""
        path = folder / self.name
        onnx.save(self.model, path)
        for beside in bundle.path.glob(f"{self.source}.data"):
            (folder / beside.name).symlink_to(beside)
        return path

    def weights(self, bundle: ModelBundle) -> int:
        """Bytes of the bundle's file and of the weights beside it."""
        return sum(file.stat().st_size for file in bundle.path.glob(f"{self.source}*"))

    def bound(self, shapes: Shapes) -> OnnxGraph:
        """The graph at one set of shapes."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.value_info[:]
        for value in model.graph.input:
            set_shape(value, shapes[value.name])
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        return OnnxGraph(model, name=self.name)


def tensorrt_graphs(bundle: ModelBundle) -> tuple[TensorRtGraph, ...]:
    """The graphs of a bundle that TensorRT runs; the text graph stays with ONNX Runtime.

    Raises:
        ExportError: a graph cannot be read.
    """
    graphs, language = [_vision(bundle)], bundle.manifest.language
    if language is not None:
        if language.tower is not None:
            graphs.append(_language_vision(bundle, language.tower))
        graphs += [_projector(bundle), _decoder(bundle)]
    return tuple(graphs)


def tensorrt_forms(bundle: ModelBundle) -> Iterator[OnnxGraph]:
    """What TensorRT would build of each graph, at each set of shapes.

    Of those that stay with ONNX Runtime, too.

    Raises:
        ExportError: a graph cannot be read.
    """
    for graph in tensorrt_graphs(bundle):
        for _, shapes in graph.profiles:
            yield graph.bound(shapes)
    yield load_graph(bundle.file(TEXT_GRAPH), {"input_ids": (1, bundle.manifest.text.length)})
    if TEMPORAL_GRAPH in bundle.manifest.files:
        yield load_graph(bundle.file(TEMPORAL_GRAPH))


def set_shape(value: onnx.ValueInfoProto, sizes: tuple[int, ...]) -> None:
    """Give an input fixed sizes; -1 leaves one as it is."""
    for dimension, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
        if size >= 0:
            dimension.dim_value = size


def _vision(bundle: ModelBundle) -> TensorRtGraph:
    spec = bundle.manifest.image
    return _tower(bundle, VISION_GRAPH, "image", (1, spec.height, spec.width, 3))


def _language_vision(bundle: ModelBundle, spec: TowerSpec) -> TensorRtGraph:
    return _tower(bundle, LANGUAGE_VISION_GRAPH, "view", (1, *spec.view_shape[1:]))


def _tower(
    bundle: ModelBundle, graph: str, profile: str, image: tuple[int, int, int, int]
) -> TensorRtGraph:
    source = plan_source(bundle.graph_file(graph))
    model = _read(bundle, source)
    if source == graph:
        model = to_fp16_matmuls(model)
    return TensorRtGraph(graph, source, model, ((profile, {"image": image}),))


def _projector(bundle: ModelBundle) -> TensorRtGraph:
    spec, language = bundle.manifest.vision, bundle.manifest.language
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (1, spec.tokens, spec.token_width),
        "token_index": (1, spec.tokens),
    }
    if language is not None and (tower := language.tower) is not None:
        shapes = {"tokens": (tower.views, tower.tokens, tower.token_width)}
    model = to_fp16_matmuls(_read(bundle, PROJECTOR_GRAPH))
    names = [value.name for value in model.graph.input]
    for value in model.graph.input:
        set_shape(value, shapes[value.name])
    shapes = {name: shapes[name] for name in names}
    return TensorRtGraph(PROJECTOR_GRAPH, PROJECTOR_GRAPH, model, (("image", shapes),))


def _decoder(bundle: ModelBundle) -> TensorRtGraph:
    """The decoder over a cache of fixed length; what is not filled is masked."""
    spec = bundle.manifest.language
    assert spec is not None
    prefix = _prompt_head(bundle, spec) + spec.image_tokens
    cached = -(-(prefix + TEXT_ROOM) // CACHE_STEP) * CACHE_STEP

    def shapes(tokens: int, rows: int) -> dict[str, tuple[int, ...]]:
        return {
            "inputs_embeds": (1, tokens, spec.read_width),
            "past": (spec.layers, 2, 1, spec.kv_heads, cached, spec.head_dim),
            "position_ids": (1, tokens),
            "mask": (1, 1, tokens, cached + tokens),
            "logit_rows": (rows,),
        }

    model = to_fp16_matmuls(_read(bundle, DECODER_GRAPH), CACHED)
    for value in model.graph.input:
        free = {"inputs_embeds": 1, "position_ids": 1, "mask": 2, "logit_rows": 0}
        sizes = list(shapes(1, 1)[value.name])
        if value.name in free:
            sizes[free[value.name]] = -1
        if value.name == "mask":
            sizes[3] = -1
        set_shape(value, tuple(sizes))
    profiles = (
        ("image", shapes(prefix, 1)),
        ("text", shapes(TEXT_TOKENS, TEXT_TOKENS)),
        ("token", shapes(1, 1)),
    )
    return TensorRtGraph(DECODER_GRAPH, DECODER_GRAPH, model, profiles)


def _prompt_head(bundle: ModelBundle, spec: LanguageSpec) -> int:
    """Tokens of the prompt before the image."""
    before, _ = spec.prompt.split("{image}", 1)
    return len(TextTokenizer(bundle.file(spec.tokenizer)).encode_template(before))


def _read(bundle: ModelBundle, name: str) -> onnx.ModelProto:
    path = bundle.file(name)
    try:
        return onnx.load(path, load_external_data=False)
    # protobuf's exceptions share no base class but Exception.
    except Exception as error:
        raise ExportError(f"{path} is not a readable ONNX model: {error}") from error
