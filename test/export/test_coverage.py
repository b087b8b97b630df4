# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Each rule finds the one bad node of a seeded graph, and says nothing about sound graphs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.deploy.coverage.coverage import TARGETS, GraphCoverage, cover_graph, load_target
from vlm_perception.deploy.onnx.graph import OnnxGraph
from vlm_perception.deploy.onnx.writer import store_half

# (target, rule, operator): a graph in which the node that is named BAD breaks that rule.
SEEDED = {
    ("tensorrt", "custom-domain", "FastGelu"): """
        (float[2,8] x) => (float[2,8] y) { [BAD] y = com.microsoft.FastGelu (x) }""",
    ("tensorrt", "unsupported-operator", "Unique"): """
        (float[8] x) => (float[N] y) { [BAD] y = Unique (x) }""",
    ("tensorrt", "unsupported-operator", "Compress"): """
        (float[8,2] x, bool[8] keep) => (float[N,2] y) {
            [BAD] y = Compress <axis = 0> (x, keep) }""",
    ("tensorrt", "shape-from-values", "NonZero"): """
        (float[8] x) => (int64[1,N] y) { [BAD] y = NonZero (x) }""",
    ("tensorrt", "operand-type", "CumSum"): """
        (int64[8] x) => (int64[8] y) <int64 axis = {0}> { [BAD] y = CumSum (x, axis) }""",
    ("tensorrt", "operand-type", "Sqrt"): """
        (double[4] x) => (float[4] y) {
            whole = Cast <to = 7> (x)
            again = Cast <to = 1> (whole)
            half = Mul (again, again)
            number = Cast <to = 6> (half)
            [BAD] root = Sqrt (number)
            y = Cast <to = 1> (root) }""",
    ("tensorrt", "uint8-inside", "Transpose"): """
        (uint8[1,4,4,3] x) => (float[1,3,4,4] y) {
            [BAD] planes = Transpose <perm = [0,3,1,2]> (x)
            y = Cast <to = 1> (planes) }""",
    ("tensorrt", "opset", "graph"): """
        <ir_version: 10, opset_import: ["" : 21]> g
        (float[4] x) => (float[4] y) { y = Relu (x) }""",
    ("tensorrt", "quantized-type", "DequantizeLinear"): """
        (float[2,4] x) => (float[2,4] y) <int32[4] bias = {1,2,3,4}, float scale = {0.5}> {
            [BAD] b = DequantizeLinear (bias, scale)
            y = Add (x, b) }""",
    ("tensorrt", "quantized-type", "QuantizeLinear"): """
        (float[2,4] x) => (float[2,4] y) <float scale = {0.5}> {
            [BAD] q = QuantizeLinear (x, scale)
            again = Cast <to = 1> (q)
            y = Relu (again) }""",
    ("tensorrt", "quantized-zero-point", "QuantizeLinear"): """
        (float[2,4] x) => (float[2,4] y) <float scale = {0.5}, int8 zero = {0}, int8 odd = {-3}> {
            [BAD] q = QuantizeLinear (x, scale, odd)
            y = DequantizeLinear (q, scale, zero) }""",
    ("tensorrt", "topk-sorted", "TopK"): """
        (float[1,64] x) => (float[1,8] y, int64[1,8] i) <int64[1] k = {8}> {
            [BAD] y, i = TopK <sorted = 0> (x, k) }""",
    ("tensorrt", "topk-large", "TopK"): """
        (float[1,4000] x) => (float[1,3840] y, int64[1,3840] i) <int64[1] k = {3840}> {
            [BAD] y, i = TopK (x, k) }""",
    ("tensorrt", "scatter-reduction", "ScatterND"): """
        (float[4,2] x, int64[1,1] i, float[1,2] u) => (float[4,2] y) {
            [BAD] y = ScatterND <reduction = "add"> (x, i, u) }""",
    ("tensorrt", "constant-axes", "ReduceMean"): """
        (float[4,2] x, int64[1] axes) => (float[N,M] y) { [BAD] y = ReduceMean (x, axes) }""",
    ("tensorrt", "constant-fourth-input", "Slice"): """
        (float[4,2] x, int64[1] axes) => (float[N,M] y) <int64[1] zero = {0}, int64[1] one = {1}> {
            [BAD] y = Slice (x, zero, one, axes) }""",
    ("tensorrt", "second-output", "LayerNormalization"): """
        (float[4,2] x) => (float[4,2] y, float[4,1] mean) <float[2] scale = {1,1}> {
            [BAD] y, mean = LayerNormalization (x, scale) }""",
    ("tensorrt", "second-output", "MaxPool"): """
        (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) {
            [BAD] y, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) }""",
    ("tensorrt", "dilated-pooling", "AveragePool"): """
        (float[1,1,8,8] x) => (float[1,1,6,6] y) {
            [BAD] y = AveragePool <kernel_shape = [2,2], dilations = [2,2]> (x) }""",
    ("tensorrt", "pooling-rank", "MaxPool"): """
        (float[1,1,8] x) => (float[1,1,7] y) { [BAD] y = MaxPool <kernel_shape = [2]> (x) }""",
    ("tensorrt", "grid-sample-rank", "GridSample"): """
        (float[1,1,4,4,4] x, float[1,4,4,4,3] grid) => (float[1,1,4,4,4] y) {
            [BAD] y = GridSample (x, grid) }""",
    ("tensorrt", "resize-mode", "Resize"): """
        (float[1,1,4,4] x) => (float[1,1,8,8] y) <int64[4] sizes = {1,1,8,8}> {
            [BAD] y = Resize <mode = "cubic"> (x, , , sizes) }""",
    ("tensorrt", "resize-coordinates", "Resize"): """
        (float[1,1,4,4] x) => (float[1,1,8,8] y) <int64[4] sizes = {1,1,8,8}> {
            [BAD] y = Resize <mode = "linear",
                coordinate_transformation_mode = "half_pixel_symmetric"> (x, , , sizes) }""",
    ("tensorrt", "resize-rounding", "Resize"): """
        (float[1,1,4,4] x) => (float[1,1,8,8] y) <int64[4] sizes = {1,1,8,8}> {
            [BAD] y = Resize <nearest_mode = "round_up"> (x, , , sizes) }""",
    ("tensorrt", "resize-aspect", "Resize"): """
        (float[1,1,4,4] x) => (float[1,1,8,8] y) <int64[2] sizes = {8,8}> {
            [BAD] y = Resize <axes = [2,3], keep_aspect_ratio_policy = "not_larger"> (x, , , sizes)
        }""",
    ("tensorrt", "constant-kind", "Constant"): """
        (float[4] x) => (float[4] y) {
            [BAD] word = Constant <value_string = "text"> ()
            y = Relu (x) }""",
    ("tensorrt", "dropout-training", "Dropout"): """
        (float[4] x) => (float[4] y) <float ratio = {0.5}, bool training = {1}> {
            [BAD] y = Dropout (x, ratio, training) }""",
    ("tensorrt", "static-eyelike", "EyeLike"): """
        (float[N,N] x) => (float[N,N] y) { [BAD] y = EyeLike (x) }""",
    ("tensorrt", "lstm-coupled-gates", "LSTM"): """
        (float[3,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[3,1,1,2] y) {
            [BAD] y = LSTM <hidden_size = 2, input_forget = 1> (x, w, r) }""",
    ("tensorrt", "lstm-layout", "LSTM"): """
        (float[1,3,2] x, float[1,8,2] w, float[1,8,2] r) => (float[1,3,1,2] y) {
            [BAD] y = LSTM <hidden_size = 2, layout = 1> (x, w, r) }""",
    ("tensorrt", "loop-scan-length", "Loop"): """
        (int64 steps, float[2] x) => (float[2] y, float[N,2] all) <bool go = {1}> {
            [BAD] y, all = Loop (steps, go, x) <body = b (int64 i, bool c, float[2] a)
                => (bool d, float[2] e, float[2] f) {
                    d = Identity (c)
                    e = Relu (a)
                    f = Relu (e) }> }""",
    ("tensorrt", "if-branches", "If"): """
        (bool c, float[2] x) => (float[N] y) {
            [BAD] y = If (c) <then_branch = t () => (float[2] a) { a = Relu (x) },
                else_branch = e () => (float[1,2] b) <int64[2] s = {1,2}> {
                    b = Reshape (x, s) }> }""",
    # Inside a branch.
    ("tensorrt", "unsupported-operator", "Det"): """
        (bool c, float[2,2] x) => (float y) {
            y = If (c) <then_branch = t () => (float a) { [BAD] a = Det (x) },
                else_branch = e () => (float b) { b = ReduceSum <keepdims = 0> (x) }> }""",
    ("dla", "reconstruction", "Where"): """
        (bool[4] c, float[4] x) => (float[4] y) { [BAD] y = Where (c, x, x) }""",
    ("dla", "explicit-quantization", "QuantizeLinear"): """
        (float[4] x) => (int8[4] y) <float scale = {0.5}, int8 zero = {0}> {
            [BAD] y = QuantizeLinear (x, scale, zero) }""",
    ("dla", "unsupported-operator", "LayerNormalization"): """
        (float[4,2] x) => (float[4,2] y) <float[2] scale = {1,1}> {
            [BAD] y = LayerNormalization (x, scale) }""",
    ("dla", "unsupported-operator", "Erf"): """
        (float[4] x) => (float[4] y) { [BAD] y = Erf (x) }""",
    ("dla", "constant-second-input", "MatMul"): """
        (float[2,4,8] x, float[2,8,4] z) => (float[2,4,4] y) { [BAD] y = MatMul (x, z) }""",
    ("dla", "operand-type", "Add"): """
        (int64[4] x) => (int64[4] y) { [BAD] y = Add (x, x) }""",
    ("dla", "dynamic-shape", "graph"): """
        (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu (x) }""",
    ("dla", "large-batch", "Relu"): """
        (float[4097,3,4,4] x) => (float[4097,3,4,4] y) { [BAD] y = Relu (x) }""",
    ("dla", "large-dimension", "Relu"): """
        (float[1,1,1,8193] x) => (float[1,1,1,8193] y) { [BAD] y = Relu (x) }""",
    ("dla", "two-spatial-dimensions", "MaxPool"): """
        (float[1,3,8] x) => (float[1,3,7] y) { [BAD] y = MaxPool <kernel_shape = [2]> (x) }""",
    ("dla", "large-kernel", "Conv"): """
        (float[1,1,40,40] x) => (float[1,1,8,8] y) <float[1,1,33,33] w = {1}> {
            [BAD] y = Conv (x, w) }""",
    ("dla", "convolution-padding", "Conv"): """
        (float[1,1,4,4] x) => (float[1,1,10,4] y) <float[1,1,1,1] w = {1}> {
            [BAD] y = Conv <pads = [3,0,3,0]> (x, w) }""",
    ("dla", "convolution-stride", "Conv"): """
        (float[1,1,32,32] x) => (float[1,1,2,2] y) <float[1,1,16,16] w = {1}> {
            [BAD] y = Conv <strides = [16,16]> (x, w) }""",
    ("dla", "convolution-dilation", "Conv"): """
        (float[1,1,40,40] x) => (float[1,1,7,7] y) <float[1,1,2,2] w = {1}> {
            [BAD] y = Conv <dilations = [33,33]> (x, w) }""",
    ("dla", "transposed-padding", "ConvTranspose"): """
        (float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1,1,3,3] w = {1}> {
            [BAD] y = ConvTranspose <pads = [1,1,1,1]> (x, w) }""",
    ("dla", "transposed-groups", "ConvTranspose"): """
        (float[1,2,4,4] x) => (float[1,2,6,6] y) <float[2,1,3,3] w = {1}> {
            [BAD] y = ConvTranspose <group = 2> (x, w) }""",
    ("dla", "transposed-dilation", "ConvTranspose"): """
        (float[1,1,4,4] x) => (float[1,1,8,8] y) <float[1,1,3,3] w = {1}> {
            [BAD] y = ConvTranspose <dilations = [2,2]> (x, w) }""",
    ("dla", "pooling-window", "AveragePool"): """
        (float[1,1,9,9] x) => (float[1,1,1,1] y) {
            [BAD] y = AveragePool <kernel_shape = [9,9]> (x) }""",
    ("dla", "pooling-padding", "MaxPool"): """
        (float[1,1,9,9] x) => (float[1,1,18,18] y) {
            [BAD] y = MaxPool <kernel_shape = [8,8], pads = [8,8,8,8]> (x) }""",
    ("dla", "pooling-stride", "MaxPool"): """
        (float[1,1,19,19] x) => (float[1,1,2,2] y) {
            [BAD] y = MaxPool <kernel_shape = [2,2], strides = [17,17]> (x) }""",
    ("dla", "negative-slope", "LeakyRelu"): """
        (float[4] x) => (float[4] y) { [BAD] y = LeakyRelu <alpha = -0.1> (x) }""",
    ("dla", "clip-range", "Clip"): """
        (float[4] x) => (float[4] y) <float low = {-1}, float high = {6}> {
            [BAD] y = Clip (x, low, high) }""",
    ("dla", "constant-slopes", "PRelu"): """
        (float[4] x, float[4] slopes) => (float[4] y) { [BAD] y = PRelu (x, slopes) }""",
    ("dla", "normalisation-window", "LRN"): """
        (float[1,8,4,4] x) => (float[1,8,4,4] y) { [BAD] y = LRN <size = 4> (x) }""",
    ("dla", "concat-axis", "Concat"): """
        (float[1,3,4,4] x) => (float[1,3,8,4] y) { [BAD] y = Concat <axis = 2> (x, x) }""",
    ("dla", "resize-scales", "Resize"): """
        (float[1,1,4,4] x) => (float[1,1,6,6] y) <float[4] scales = {1,1,1.5,1.5}> {
            [BAD] y = Resize (x, , scales) }""",
    ("dla", "slice-rank", "Slice"): """
        (float[1,1,2,4,4] x) => (float[1,1,2,4,2] y)
        <int64[1] zero = {0}, int64[1] two = {2}, int64[1] axis = {4}> {
            [BAD] y = Slice (x, zero, two, axis) }""",
    ("dla", "slice-batch", "Split"): """
        (float[2,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z) {
            [BAD] y, z = Split <axis = 0, num_outputs = 2> (x) }""",
    ("dla", "softmax-axis", "Softmax"): """
        (float[1,6,2000,2000] x) => (float[1,6,2000,2000] y) { [BAD] y = Softmax (x) }""",
    ("openvino-npu", "unsupported-operator", "Det"): """
        (float[2,2] x) => (float y) { [BAD] y = Det (x) }""",
    ("openvino-npu", "grid-sample-rank", "GridSample"): """
        (float[1,1,4,4,4] x, float[1,4,4,4,3] grid) => (float[1,1,4,4,4] y) {
            [BAD] y = GridSample (x, grid) }""",
    ("openvino-npu", "float-type", "Relu"): """
        (double[4] x) => (double[4] y) { [BAD] y = Relu (x) }""",
    ("openvino-npu", "dynamic-shape", "graph"): """
        (float[N,4] x) => (float[N,4] y) { y = Relu (x) }""",
    ("openvino-npu", "shape-from-values", "NonZero"): """
        (float[4] x) => (int64[1,N] y) { [BAD] y = NonZero (x) }""",
}
HEADER = """<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]> g"""


def parse(text: str) -> OnnxGraph:
    # Names of nodes are not part of the language in all versions: they become the node's output.
    marked = re.search(r"\[BAD\]\s*(\w+)", text)
    body = text.replace("[BAD]", "")
    model = onnx.parser.parse_model(body if "ir_version" in text else HEADER + body)
    bad = marked.group(1) if marked else ""
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            node.name = "BAD" if bad in node.output else f"{node.op_type}_{node.output[0]}"
            graphs += [each.g for each in node.attribute if each.HasField("g")]
    return OnnxGraph(model, name="seeded.onnx")


def broken_rules(coverage: GraphCoverage) -> list[tuple[str, str]]:
    return [(finding.rule, finding.operator) for finding in coverage.findings]


@pytest.mark.parametrize(("target", "rule", "operator"), SEEDED, ids=str)
def test_the_seeded_fault_is_found_with_its_reason(target: str, rule: str, operator: str) -> None:
    table = load_target(target)
    coverage = cover_graph(parse(SEEDED[target, rule, operator]), table)
    assert broken_rules(coverage) == [(rule, operator)]
    (finding,) = coverage.findings
    assert finding.node == "BAD" or operator == "graph"
    stated = next(each for each in table.rules if each.id == rule)
    assert finding.why.startswith(stated.why)
    assert (finding.remedy, finding.source) == (stated.remedy, table.sources[stated.source].url)


@pytest.mark.parametrize("target", TARGETS)
def test_every_rule_has_a_seeded_fault(target: str) -> None:
    seeded = {rule for name, rule, _ in SEEDED if name == target} | {"many-islands"}
    assert {rule.id for rule in load_target(target).rules} <= seeded


def test_a_node_with_two_faults_has_two_findings() -> None:
    text = SEEDED["tensorrt", "topk-large", "TopK"].replace("TopK (", "TopK <sorted = 0> (")
    coverage = cover_graph(parse(text), load_target("tensorrt"))
    assert broken_rules(coverage) == [("topk-sorted", "TopK"), ("topk-large", "TopK")]


CLEAN = {
    "tensorrt": """
        (uint8[1,8,8,3] image) => (float[1,4] y, int64[1,4] i)
        <int64[1] k = {4}, float scale = {0.5}, int8 zero = {0},
         int64[2] flat = {1,192}, int64[1] one = {1}> {
            pixels = Cast <to = 1> (image)
            planes = Transpose <perm = [0,3,1,2]> (pixels)
            row = Reshape (planes, flat)
            q = QuantizeLinear (row, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            size = Shape (d)
            mean = ReduceMean (d, one)
            centred = Sub (d, mean)
            y, i = TopK (centred, k) }""",
    "dla": """
        (float[1,3,8,8] x) => (float[1,2,8,8] y) <float16[2,3,1,1] half = {1,2,3,4,5,6}> {
            w = Cast <to = 1> (half)
            c = Conv (x, w)
            r = Relu (c)
            s = Sigmoid (r)
            p = Softmax (s)
            y = Mul (r, p) }""",
    "openvino-npu": """
        (uint8[1,8] x) => (float[1,4] y, int64[1,4] i) <int64[1] k = {4}> {
            f = Cast <to = 1> (x)
            y, i = TopK (f, k) }""",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_sound_graph_has_no_finding(target: str) -> None:
    coverage = cover_graph(parse(CLEAN[target]), load_target(target))
    assert coverage.findings == ()
    assert coverage.native == coverage.nodes
    assert coverage.islands == 1


def test_weights_that_are_stored_in_halves_are_constant() -> None:
    weights = numpy_helper.from_array(np.ones((32, 32), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 32])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    store_half(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "MatMul"]
    coverage = cover_graph(OnnxGraph(model, name="linear.onnx"), load_target("dla"))
    assert (coverage.findings, coverage.nodes) == ((), 1)


@pytest.mark.parametrize(("between", "islands"), [("Sigmoid", 1), ("Erf", 2)])
def test_islands_are_cut_where_the_accelerator_is_left(between: str, islands: int) -> None:
    text = f"""(float[1,3,8,8] x) => (float[1,3,8,8] y) {{
        a = Relu (x)
        b = {between} (a)
        c = Tanh (a)
        y = Mul (b, c)
    }}"""
    assert cover_graph(parse(text), load_target("dla")).islands == islands


def test_too_many_islands_are_a_finding() -> None:
    steps = "".join(f"a{i} = Relu (b{i})\n b{i + 1} = Erf (a{i})\n" for i in range(17))
    text = f"(float[4] b0) => (float[4] b17) {{ {steps} }}"
    coverage = cover_graph(parse(text), load_target("dla"))
    assert coverage.islands == 17
    assert ("many-islands", "graph") in broken_rules(coverage)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["coverage", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_shipped_bundle_runs_on_tensorrt(tmp_path: Path) -> None:
    file = tmp_path / "coverage.json"
    code, output, _ = run("roadworld-nano", "--target", "tensorrt", "--json", str(file))
    assert code == 0, output
    assert "everything runs on this target" in output
    content = json.loads(file.read_text())
    assert content["native"]
    assert all(each["native"] == each["nodes"] > 0 for each in content["graphs"])


def test_a_transformer_does_not_fit_the_accelerator(tmp_path: Path) -> None:
    file = tmp_path / "coverage.json"
    code, output, _ = run("roadworld-nano", "--target", "dla", "--json", str(file))
    assert code == 1
    assert re.search(r"constant-second-input: .*constant", " ".join(output.split()))
    content = json.loads(file.read_text())
    vision = next(each for each in content["graphs"] if each["graph"] == "vision.onnx")
    rules = {finding["rule"] for finding in vision["findings"]}
    assert {"constant-second-input", "unsupported-operator", "many-islands"} <= rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch", "--target", "dla"], "there is no bundle 'nonesuch'"),
        (
            ["roadworld-nano", "--target", "abacus"],
            "no table for 'abacus'; choose one of tensorrt, dla, ",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str) -> None:
    code, _, error = run(*arguments)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
