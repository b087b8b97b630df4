# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT is given and what its answers mean, without any of it."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from vlm_perception.bundle.bundle import DECODER_GRAPH, VISION_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import FileEntry
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.coverage.coverage import cover_graph, load_target
from vlm_perception.deploy.onnx.fp16_matmuls import PRODUCTS
from vlm_perception.deploy.onnx.tensorrt_graphs import TensorRtGraph, tensorrt_graphs
from vlm_perception.deploy.tensorrt.build import require_native
from vlm_perception.deploy.tensorrt.layers import planned_precisions, read_layers
from vlm_perception.deploy.tensorrt.memory import MEBIBYTE, require_memory
from vlm_perception.engines.tensorrt.plan_store import (
    RECIPE,
    BuildOptions,
    Machine,
    PlanKey,
    plan_digest,
)


@pytest.fixture(scope="session")
def shipped() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


def test_every_graph_keeps_to_the_rules_at_fixed_shapes(shipped: ModelBundle) -> None:
    target = load_target("tensorrt")
    for graph in tensorrt_graphs(shipped):
        for _, shapes in graph.profiles:
            bound = graph.bound(shapes)
            assert cover_graph(bound, target).findings == ()
            assert all(bound.types[name].sizes() for name in (*bound.inputs, *bound.outputs))
            assert set(planned_precisions(bound).values()) <= {"int8", "fp16"}


def test_the_kv_cache_has_one_length_and_half_precision(shipped: ModelBundle) -> None:
    decoder = next(g for g in tensorrt_graphs(shipped) if g.name == DECODER_GRAPH)
    assert len({shapes["past"] for _, shapes in decoder.profiles}) == 1
    types = {v.name: v.type.tensor_type.elem_type for v in decoder.model.graph.input}
    assert types["past"] == TensorProto.FLOAT16
    assert types["inputs_embeds"] == TensorProto.FLOAT
    # Norms and softmax stay FP32.
    bound = decoder.bound(decoder.profiles[0][1])
    for node in bound.nodes:
        if node.op_type in {"Softmax", "ReduceMean", "Sqrt"}:
            assert bound.types[node.input[0]].dtype == TensorProto.FLOAT
        if node.op_type in PRODUCTS:
            assert bound.types[node.input[0]].dtype == TensorProto.FLOAT16


def test_a_graph_that_does_not_fit_is_refused_with_its_node() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["values", "indices"], name="pick", sorted=0)
    k = helper.make_tensor("k", TensorProto.INT64, [1], [3])
    made = helper.make_graph(
        [node],
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, 3])],
        [k],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    graph = TensorRtGraph("bad.onnx", "bad.onnx", model, (("x", {"x": (1, 8)}),))
    with pytest.raises(ExportError, match=r"TopK pick.*sorted"):
        require_native([graph], dla=False)


def test_a_transformer_is_refused_on_the_accelerator(shipped: ModelBundle) -> None:
    with pytest.raises(ExportError, match=r"deep learning accelerator.*build without --dla"):
        require_native(tensorrt_graphs(shipped), dla=True)


def test_too_little_memory_is_said_before_the_build() -> None:
    weights, workspace, plenty = 100 * MEBIBYTE, 512 * MEBIBYTE, 16384 * MEBIBYTE
    require_memory("g", weights, workspace, host_free=plenty, gpu_free=None)
    with pytest.raises(ExportError, match="MiB of memory, but only 2048 MiB are free"):
        require_memory("g", weights, workspace, host_free=2048 * MEBIBYTE, gpu_free=None)
    with pytest.raises(ExportError, match="GPU memory"):
        require_memory("g", weights, workspace, host_free=plenty, gpu_free=256 * MEBIBYTE)


HERE = Machine(tensorrt="10.3.0", gpu="Orin", compute_capability="8.7")


@pytest.mark.parametrize(
    ("machine", "options", "reason"),
    [
        ({}, {}, ""),
        ({"tensorrt": "10.13.3"}, {}, "built with TensorRT 10.3.0, this is 10.13.3"),
        ({"tensorrt": "10.13.3"}, {"any_version": True}, ""),
        ({"tensorrt": "11.4.0.106"}, {"any_version": True}, ""),
        ({"tensorrt": "12.0.0"}, {"any_version": True}, "this is 12.0.0"),
        ({"tensorrt": "10.2.0"}, {"any_version": True}, "this is 10.2.0"),
        ({"gpu": "Orin Nano"}, {}, "built on Orin .*this is Orin Nano"),
        ({"gpu": "Orin Nano"}, {"hardware": "same-capability"}, ""),
        ({"compute_capability": "8.9"}, {"hardware": "same-capability"}, "8.9"),
        ({"gpu": "L4", "compute_capability": "8.9"}, {"hardware": "ampere"}, ""),
        ({"gpu": "T4", "compute_capability": "7.5"}, {"hardware": "ampere"}, "7.5"),
    ],
)
def test_a_plan_says_why_it_does_not_fit(
    machine: dict[str, str], options: dict[str, object], reason: str
) -> None:
    key = PlanKey(
        graph=VISION_GRAPH,
        graph_sha256="a",
        recipe=RECIPE,
        machine=HERE,
        options=BuildOptions.model_validate(options),
    )
    found = key.differences("a", HERE.model_copy(update=machine))
    assert bool(found) == bool(reason)
    if reason:
        with pytest.raises(ValueError, match=reason):
            raise ValueError(found[0])
    assert (
        key.differences("b", HERE.model_copy(update=machine))[0]
        == "it was built from another graph"
    )


def test_the_inspectors_answer_is_read() -> None:
    planned = {"fc1/Gemm": "int8", "fc2/Gemm": "int8", "head/MatMul": "fp16", "gone/Gemm": "int8"}
    answer = {
        "Layers": [
            {
                "Name": "first",
                "LayerType": "gemm",
                "Inputs": [{"Format/Datatype": "Int8"}],
                "Metadata": "[ONNX Layer: fc1/Q]\x1e[ONNX Layer: fc1/Gemm]",
            },
            {
                "Name": "second",
                "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}],
                "Metadata": "[ONNX Layer: fc2/Gemm]\x1f[ONNX Layer: gelu]",
            },
            {
                "Name": "third",
                "Inputs": [{"Format/Datatype": "Half"}],
                "Metadata": "[ONNX Layer: head/MatMul]",
            },
            {"Name": "first [profile 1]", "Metadata": "[ONNX Layer: fc1/Gemm]"},
        ],
        "I/O Tensors": [],
    }
    report = read_layers("g", json.dumps(answer), {"second": 0.5}, planned)
    assert [layer.fell_back for layer in report.layers] == [False, True, False]
    assert [layer.precision for layer in report.layers] == ["int8", "fp16", "fp16"]
    assert report.layers[1].median_ms == 0.5
    assert report.missing == ("gone/Gemm",)
    with pytest.raises(ExportError, match="build the plan again"):
        read_layers("g", json.dumps({"Layers": ["only a name"]}), {}, planned)


def test_weights_beside_a_graph_and_the_prompt_count_for_its_plan(shipped: ModelBundle) -> None:
    manifest = shipped.manifest
    beside = FileEntry(sha256="0" * 64, bytes=1)
    files = {**manifest.files, f"{DECODER_GRAPH}.data": beside}
    language = manifest.language.model_copy(update={"prompt": "{image}"})  # type: ignore[union-attr]
    for update in ({"files": files}, {"language": language}):
        other = replace(shipped, manifest=manifest.model_copy(update=update))
        decoder, vision = (
            [plan_digest(each.graph_file(graph)) for each in (other, shipped)]
            for graph in (DECODER_GRAPH, VISION_GRAPH)
        )
        assert decoder[0] != decoder[1]
        assert vision[0] == vision[1]


def test_a_size_that_is_free_is_found(shipped: ModelBundle) -> None:
    decoder = next(g for g in tensorrt_graphs(shipped) if g.name == DECODER_GRAPH)
    name, shapes = decoder.profiles[0]
    # A KV cache that grows, as in the bundle's own graph.
    free = {**shapes, "past": (*shapes["past"][:4], -1, shapes["past"][5])}
    model = onnx.load(shipped.file(DECODER_GRAPH))
    grown = TensorRtGraph(decoder.name, decoder.source, model, ((name, free),))
    with pytest.raises(ExportError, match=r"decoder\.onnx does not fit TensorRT: tensor past"):
        require_native([grown], dla=False)
