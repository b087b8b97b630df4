# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A profile counts what torch counts, and a projection is what the figures it prints give."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, LlavaForConditionalGeneration
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.onnx.graph import OnnxGraph, load_graph
from vlm_perception.deploy.profiling.cost import Cost, CostModel
from vlm_perception.deploy.profiling.devices import THIS, datasheets, find_device
from vlm_perception.deploy.profiling.layers import Names, layer_of_nodes
from vlm_perception.deploy.profiling.profile import (
    CAPTION_TOKENS,
    UNATTRIBUTED,
    Profile,
    profile_bundle,
)

DEVICE = "agx-orin-64"


@pytest.fixture(params=["siglip", "clip"])
def family(request: pytest.FixtureRequest) -> tuple[Path, ModelBundle]:
    name = request.param
    return request.getfixturevalue(f"{name}_checkpoint"), request.getfixturevalue(f"{name}_bundle")


def layers_of(profile: Profile, phase: str) -> dict[str, Cost]:
    found = next(each for each in profile.phases if each.phase.name == phase)
    return {layer.name: layer.cost for layer in found.layers}


def flops_of(costs: dict[str, Cost], prefix: str) -> int:
    return sum(cost.flops for name, cost in costs.items() if name.startswith(prefix))


@torch.no_grad()
def count_in_torch(module: Any, *args: Any, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        module(*args, **kwargs)
    return counter.get_total_flops()


def load(checkpoint: Path, part: str) -> Any:
    kind = AutoModel if part == "dual" else LlavaForConditionalGeneration
    # The counter does not know fused attention on the CPU.
    return kind.from_pretrained(checkpoint / part, attn_implementation="eager").eval()


def test_the_encoder_costs_what_torch_counts(family: tuple[Path, ModelBundle]) -> None:
    checkpoint, bundle = family
    tower = load(checkpoint, "dual").vision_model
    width = tower.config.hidden_size
    tokens = bundle.manifest.vision.tokens + (bundle.manifest.vision.family == "clip")
    costs = layers_of(profile_bundle(bundle, DEVICE), "encoder")
    hidden = torch.zeros(1, tokens, width)
    assert flops_of(costs, "layer ") == count_in_torch(tower.encoder, inputs_embeds=hidden)
    image = bundle.manifest.image
    pixels = torch.zeros(1, 3, image.height, image.width)
    patches = count_in_torch(tower.embeddings.patch_embedding, pixels)
    assert costs["patch embedding"].flops == patches > 0


def test_a_layer_of_the_encoder_follows_the_formula(siglip_bundle: ModelBundle) -> None:
    tokens, width, inner = siglip_bundle.manifest.vision.tokens, 48, 96
    costs = layers_of(profile_bundle(siglip_bundle, DEVICE), "encoder")
    assert set(costs) == {
        "patch embedding",
        *(f"layer {i} {part}" for i in range(3) for part in ("attention", "feed-forward")),
        "pooling head",
    }
    projections, scores = 4 * width * width * tokens, 2 * tokens * tokens * width
    feed_forward = 2 * width * inner * tokens
    for index in range(3):
        assert costs[f"layer {index} attention"].flops == 2 * (projections + scores)
        assert costs[f"layer {index} feed-forward"].flops == 2 * feed_forward
        # FP16 on this device, with biases and the norm's two vectors.
        weights = 2 * (2 * width * inner + inner + width + 2 * width)
        assert costs[f"layer {index} feed-forward"].weight_bytes == weights


def test_prefill_and_projector_cost_what_torch_counts(family: tuple[Path, ModelBundle]) -> None:
    checkpoint, bundle = family
    model = load(checkpoint, "vlm").model
    profile = profile_bundle(bundle, DEVICE)
    length = profile.image_tokens + profile.prompt_tokens
    hidden = torch.zeros(1, length, bundle.manifest.language.width)
    counted = count_in_torch(model.language_model, inputs_embeds=hidden, use_cache=False)
    assert flops_of(layers_of(profile, "prefill"), "layer ") == counted
    vision = bundle.manifest.vision
    features = torch.zeros(1, vision.tokens, vision.token_width)
    projected = count_in_torch(model.multi_modal_projector, features)
    assert flops_of(layers_of(profile, "projector"), "projector") == projected


def test_a_decoded_token_follows_the_formula(siglip_bundle: ModelBundle) -> None:
    spec = siglip_bundle.manifest.language
    profile = profile_bundle(siglip_bundle, DEVICE)
    cached = profile.image_tokens + profile.prompt_tokens
    width, inner, heads = spec.width, 128, 4
    keys = spec.kv_heads * spec.head_dim
    attention = 2 * (2 * width * width + 2 * width * keys)
    attention += 2 * 2 * heads * spec.head_dim * (cached + 1)
    costs = layers_of(profile, "decode")
    for index in range(spec.layers):
        assert costs[f"layer {index} attention"].flops == attention
        assert costs[f"layer {index} feed-forward"].flops == 2 * 3 * width * inner
    assert costs["output head"].flops == 2 * width * spec.vocabulary_size
    assert profile.cache_bytes == spec.kv_bytes_per_token * (cached + CAPTION_TOKENS)


PRUNED = """<ir_version: 9, opset_import: ["" : 20]> g
    (float[8,4] x) => (float[3,4] y, int64[1,3] kept)
    <float[4] one = {1,1,1,1}, float[4,4] w = {1}, float[4,1] probe = {1}, int64[1] k = {3},
     int64[2] row = {1,8}, int64[1] flat = {3}> {
        n1 = LayerNormalization (x, one)
        q = MatMul (n1, w)
        t = Transpose (q)
        scores = MatMul (q, t)
        weights = Softmax (scores)
        mixed = MatMul (weights, q)
        h1 = Add (x, mixed)
        n2 = LayerNormalization (h1, one)
        seen = MatMul (n2, probe)
        line = Reshape (seen, row)
        soft = Softmax (line)
        best, kept = TopK (soft, k)
        index = Reshape (kept, flat)
        h2 = Gather (h1, index)
        n3 = LayerNormalization (h2, one)
        wide = MatMul (n3, w)
        h3 = Add (h2, wide)
        y = LayerNormalization (h3, one)
    }"""


def test_the_choice_of_tokens_is_a_layer_of_its_own() -> None:
    graph = OnnxGraph(onnx.parser.parse_model(PRUNED), name="pruned.onnx")
    named = layer_of_nodes(graph, Names("before", "behind"))
    labels = {graph.nodes[index].output[0]: layer for index, layer in named.items()}
    for layer, tensors in {
        "layer 0 attention": ("n1", "scores", "weights", "h1"),
        "layer 0 token selection": ("n2", "seen", "soft", "best", "h2"),
        "layer 0 feed-forward": ("n3", "wide", "h3"),
        "behind": ("y",),
    }.items():
        assert {labels[tensor] for tensor in tensors} == {layer}


def quantized_linear() -> OnnxGraph:
    """[16, 32] x [32, 64], both factors in INT8, with a GELU and a bias in floating point."""
    weights = np.arange(32 * 64).reshape(32, 64).astype(np.int8)
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]),
            node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
            node("DequantizeLinear", ["x8", "scale", "zero"], ["xd"]),
            node("MatMul", ["xd", "w"], ["product"]),
            node("Add", ["product", "bias"], ["sum"]),
            node("Gelu", ["sum"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 64])],
        [
            numpy_helper.from_array(weights, "w8"),
            numpy_helper.from_array(np.zeros(64, np.float32), "bias"),
            scale,
            zero,
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    return OnnxGraph(model, name="linear.onnx")


@pytest.mark.parametrize("float_bytes", [2, 4])
def test_eight_bits_count_as_a_byte(float_bytes: int) -> None:
    graph = quantized_linear()
    model = CostModel(graph, float_bytes)
    total = sum((model.cost(node) for node in graph.nodes), Cost())
    assert (total.float_flops, total.int8_flops) == (0, 2 * 16 * 32 * 64)
    # The matrix in INT8; the bias in floating point, and the scale and zero point of x.
    assert total.weight_bytes == 32 * 64 + float_bytes * 64 + float_bytes + 1
    # x is read and written quantized, the product reads that; bias and GELU are one pass with it.
    assert total.activation_bytes == float_bytes * 16 * 32 + 2 * 16 * 32 + float_bytes * 16 * 64


@pytest.mark.parametrize("device", sorted(datasheets()))
def test_a_projection_is_the_roofline_of_the_printed_figures(
    siglip_bundle: ModelBundle, device: str
) -> None:
    sheet = datasheets()[device]
    profile = profile_bundle(siglip_bundle, device)
    assert math.isclose(sheet.int8_tops, 2 * sheet.fp16_tflops)
    assert profile.device.remarks
    for phase in profile.phases:
        for layer in phase.layers:
            moved = layer.cost.bytes / (sheet.bandwidth_gb_s * 1e9)
            computed = layer.cost.flops / (sheet.fp16_tflops * 1e12)
            assert math.isclose(layer.seconds, max(moved, computed))
            assert layer.bound == ("memory" if moved > computed else "compute")
        assert math.isclose(phase.seconds, sum(layer.seconds for layer in phase.layers))
    assert math.isclose(sum(map(profile.share, profile.phases)), 1.0)


def test_a_large_product_is_bound_by_the_processor() -> None:
    device = find_device(DEVICE, threads=1)
    side = 8192
    cost = Cost(float_flops=2 * side**3, weight_bytes=2.0 * side**2, activation_bytes=4.0 * side**2)
    assert device.bound(cost) == "compute"
    assert math.isclose(device.roofline_seconds(cost), 2 * side**3 / 42.5e12)


def test_each_layer_is_measured_here(siglip_bundle: ModelBundle) -> None:
    profile = profile_bundle(siglip_bundle, THIS)
    for phase in profile.phases:
        *layers, rest = phase.layers
        assert rest.name == UNATTRIBUTED
        assert rest.seconds >= 0
        assert all(layer.seconds > 0 for layer in layers), phase
        assert phase.seconds > 0
    counted = profile_bundle(siglip_bundle, DEVICE)
    for here, there in zip(profile.phases, counted.phases, strict=True):
        assert here.cost.flops == there.cost.flops


def test_the_command_prints_the_figures_that_it_used(
    siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    arguments = ["profile", str(siglip_bundle.path), "--device", "orin-nano", "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for text in ("projected", "datasheet", "102 GB/s", "16.75 TFLOPS", "MAXN_SUPER", "dense"):
        assert text in result.output
    content = json.loads(file.read_text())
    assert [each["name"] for each in content["phases"]][:2] == ["encoder", "projector"]
    assert math.isclose(sum(each["share"] for each in content["phases"]), 1.0)
    assert content["times"] == "projected"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch"], "there is no bundle 'nonesuch'"),
        (
            ["BUNDLE", "--device", "toaster"],
            "no datasheet figures for 'toaster'; choose one of this, ",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    siglip_bundle: ModelBundle, arguments: list[str], message: str
) -> None:
    given = [str(siglip_bundle.path) if each == "BUNDLE" else each for each in arguments]
    result = CliRunner().invoke(app, ["profile", *given])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_graph_that_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]> g (float[2,3] x) => (float[2,2] y) {
        y = Einsum <equation = "ij,kj->ik"> (x, x)
    }"""
    graph = OnnxGraph(onnx.parser.parse_model(text), name="odd.onnx")
    with pytest.raises(ExportError, match=r"odd\.onnx: Einsum .* has no known cost"):
        CostModel(graph, 4).cost(graph.nodes[0])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"broken\.onnx is not a readable ONNX model"):
        load_graph(broken)


def test_shapes_that_do_not_fit_are_refused(siglip_bundle: ModelBundle) -> None:
    path = siglip_bundle.file("text.onnx")
    with pytest.raises(ExportError, match=r"input input_ids is .* and cannot be \[1, 7\]"):
        load_graph(path, {"input_ids": (1, 7)})


@pytest.mark.parametrize(("missing", "code"), [("torch", 0), ("onnx", 2)])
def test_torch_is_not_needed_and_onnx_is_asked_for(
    siglip_bundle: ModelBundle, missing: str, code: int
) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from vlm_perception.cli import app\n"
        f"app(['profile', {str(siglip_bundle.path)!r}, '--device', 'thor'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert ("setup_venv.py --train" in done.stderr) == (missing == "onnx")
