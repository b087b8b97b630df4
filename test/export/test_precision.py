# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized towers: INT8 at the planned points and nowhere else, and near the tower in float."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image
from support.checkpoints import make_checkpoint

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    VISION_FP16_GRAPH,
    VISION_GRAPH,
    ModelBundle,
)
from vlm_perception.bundle.golden import GoldenError, check_alike
from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.compression.activation_ranges import Fit
from vlm_perception.deploy.compression.int8 import quantize_graphs
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    AttentionProducts,
    Bits,
    GroupConfig,
    PrecisionConfig,
    quantized_layers,
    read_config,
)
from vlm_perception.deploy.compression.steps import LEAST_STEP, Method, Spread, symmetric_steps
from vlm_perception.deploy.coverage.coverage import cover_graph, load_target
from vlm_perception.deploy.export import write_bundle
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.manifest_fields import golden_spec
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.onnx.graph import load_graph
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.registry import load_engine
from vlm_perception.perception.preprocess import Preprocessor

CONFIGS = Path(__file__).parents[2] / "config" / "precision"
GRAPHS = (VISION_GRAPH, VISION_FP16_GRAPH)


@dataclass
class Tower:
    """A vision graph in float, and the folder that holds it quantized."""

    original: Path
    folder: Path
    spec: ImageSpec
    images: list[Path]

    def run(self, path: Path, engine: str = "onnxruntime") -> dict[str, NDArray[Any]]:
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in self.images[:1]])
        return load_engine(engine, GraphFile(path), threads=1).run({"image": pixels})


def write_images(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Smooth pictures, no two alike."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for path in paths:
        coarse = generator.integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return paths


def fits(spec: ImageSpec) -> dict[str, Fit]:
    """How the tower of a dual encoder is given an image."""
    preprocessor = Preprocessor(spec)
    return {VISION_GRAPH: lambda image: preprocessor.run(image)[0]}


@pytest.fixture(scope="module", params=["siglip", "clip", "pruned"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tower:
    folder = tmp_path_factory.mktemp(request.param)
    bundle: ModelBundle
    if request.param == "pruned":
        checkpoint = request.getfixturevalue("siglip_checkpoint")
        with pytest.MonkeyPatch.context() as patch:
            # A pruned tower needs no images to be made, only to be measured.
            patch.setattr(ExportOptions, "__post_init__", lambda options: None)
            bundle = export_bundle(checkpoint, folder / "float", ExportOptions(keep="0.6@1"))
    else:
        bundle = request.getfixturevalue(f"{request.param}_bundle")
    spec = bundle.manifest.image
    images = write_images(folder / "images", (spec.width, spec.height), 24)
    quantized = folder / "quantized"
    quantized.mkdir()
    shutil.copy(bundle.file(VISION_GRAPH), quantized)
    assert quantize_graphs(quantized, images, fits(spec), None) == (VISION_GRAPH,)
    return Tower(bundle.file(VISION_GRAPH), quantized, spec, images)


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized_nodes(model: onnx.ModelProto) -> dict[str, list[NDArray[Any]]]:
    """Steps of input and weight of each node whose inputs both come out of DequantizeLinear."""
    values = constants(model)
    steps = {
        node.output[0]: values[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    return {
        node.name: [steps[name] for name in node.input]
        for node in model.graph.node
        if node.input and all(name in steps for name in node.input)
    }


def largest_codes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """How large the integers get that each quantized node computes with."""
    values = constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}

    def largest(dequantized: str) -> int:
        codes = makers[dequantized].input[0]
        if codes in values:
            return int(np.abs(values[codes].astype(int)).max())
        quantize = makers[codes]
        source = makers[quantize.input[0]]
        if source.op_type != "Clip":
            return 127
        least, most = (values[name] for name in source.input[1:])
        assert least == -most
        return round(float(most / values[quantize.input[1]]))

    return {
        node.name: tuple(largest(name) for name in node.input)
        for node in model.graph.node
        if node.name in quantized_nodes(model)
    }


def cosine(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((ours * theirs).sum(axis=-1) / lengths).mean())


@pytest.mark.parametrize("graph", GRAPHS)
def test_int8_is_symmetric_and_where_the_plan_says(tower: Tower, graph: str) -> None:
    model = onnx.load(tower.folder / graph)
    onnx.checker.check_model(model, full_check=True)
    values = constants(model)
    assert not any(value.dtype == np.int32 for value in values.values())
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    plan = read_config(tower.folder / CONFIG_NAME)
    nodes = quantized_nodes(model)
    assert {name.partition("/")[0] for name in nodes} == set(quantized_layers(plan))
    assert len(quantized_layers(plan)) == 4 * 3
    for name, (input_step, weight_steps) in nodes.items():
        assert input_step.ndim == 0, name
        assert weight_steps.ndim == 1, "a step for each output channel"


def test_both_streams_quantize_to_the_same_integers(tower: Tower) -> None:
    full, half = (onnx.load(tower.folder / graph) for graph in GRAPHS)
    ours, theirs = quantized_nodes(full), quantized_nodes(half)
    assert ours.keys() == theirs.keys()
    for name in ours:
        for left, right in zip(ours[name], theirs[name], strict=True):
            assert (left.dtype, right.dtype) == (np.float32, np.float16)
            np.testing.assert_array_equal(left, right)
    integers = [
        {name: value for name, value in constants(model).items() if value.dtype == np.int8}
        for model in (full, half)
    ]
    assert integers[0].keys() == integers[1].keys()
    for name, value in integers[0].items():
        np.testing.assert_array_equal(value, integers[1][name])


def test_the_stream_for_tensorrt_is_fp16_behind_a_cast_of_the_image(tower: Tower) -> None:
    model = onnx.load(tower.folder / VISION_FP16_GRAPH)
    assert not any(value.dtype == np.float32 for value in constants(model).values())
    (first,) = (node for node in model.graph.node if "image" in node.input)
    assert first.op_type == "Cast"
    (second,) = (node for node in model.graph.node if first.output[0] in node.input)
    assert second.op_type == "Transpose"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_quantized_tower_says_what_it_said(tower: Tower, graph: str, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    whole, quantized = tower.run(tower.original), tower.run(tower.folder / graph, engine)
    assert quantized["pooled"].dtype == np.float32
    assert cosine(quantized["pooled"], whole["pooled"]) > 0.995
    assert check_alike(quantized, whole, 0.98) > 0


def test_onnx_runtime_computes_the_planned_nodes_in_int8(tower: Tower, tmp_path: Path) -> None:
    """Q/DQ that the engine does not fuse only cost time."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    graph = tower.folder / VISION_GRAPH
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QGemm") == len(quantized_nodes(onnx.load(graph)))
    assert "DequantizeLinear" not in kinds


def test_a_plan_gives_the_same_graphs_again(tower: Tower, tmp_path: Path) -> None:
    shutil.copy(tower.original, tmp_path)
    quantize_graphs(tmp_path, tower.images, fits(tower.spec), tower.folder / CONFIG_NAME)
    for name in (*GRAPHS, CONFIG_NAME):
        assert (tmp_path / name).read_bytes() == (tower.folder / name).read_bytes(), name


@pytest.fixture
def plan(siglip_bundle: ModelBundle, tmp_path: Path) -> dict[str, Any]:
    """The default plan of a tower, as one who edits it sees it."""
    spec = siglip_bundle.manifest.image
    images = write_images(tmp_path / "images", (spec.width, spec.height), 4)
    shutil.copy(siglip_bundle.file(VISION_GRAPH), tmp_path)
    quantize_graphs(tmp_path, images, fits(spec), None)
    content: dict[str, Any] = yaml.safe_load((tmp_path / CONFIG_NAME).read_text(encoding="utf-8"))
    return content


def requantize(bundle: ModelBundle, folder: Path, plan: Any) -> None:
    shutil.copy(bundle.file(VISION_GRAPH), folder)
    (folder / "edited.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    images = sorted((folder / "images").iterdir())
    quantize_graphs(folder, images, fits(bundle.manifest.image), folder / "edited.yaml")


def test_a_layer_that_is_moved_to_a_float_group_stays_float(
    siglip_bundle: ModelBundle, plan: dict[str, Any], tmp_path: Path
) -> None:
    plan["groups"]["feed-forward"]["layers"].remove("layers.mlps.1.fc2")
    plan["groups"]["heads"]["layers"].append("layers.mlps.1.fc2")
    requantize(siglip_bundle, tmp_path, plan)
    for graph in GRAPHS:
        nodes = quantized_nodes(onnx.load(tmp_path / graph))
        assert "layers.mlps.1.fc2/Gemm" not in nodes
        assert "layers.mlps.1.fc1/Gemm" in nodes


def test_few_bits_are_int8_behind_a_clip_and_attention_products_can_be_quantized(
    siglip_bundle: ModelBundle, plan: dict[str, Any], tmp_path: Path
) -> None:
    hard = yaml.safe_load((CONFIGS / "hard.yaml").read_text(encoding="utf-8"))
    hard["groups"] = plan["groups"]
    hard["groups"]["feed-forward"]["bits"] = {"weights": 8, "inputs": 6}
    requantize(siglip_bundle, tmp_path, hard)
    for graph in GRAPHS:
        onnx.checker.check_model(tmp_path / graph, full_check=True)
        sizes = largest_codes(onnx.load(tmp_path / graph))
        assert sizes["layers.mlps.0.fc1/Gemm"] == (31, 127)
        assert sizes["layers.attentions.1.out/Gemm"] == (15, 7)
        for product in ("MatMul", "MatMul_2"):
            assert sizes[f"layers.attentions.1/{product}"] == (7, 7)
        assert not any(name.startswith("head") for name in sizes)
    coverage = cover_graph(load_graph(tmp_path / VISION_FP16_GRAPH), load_target("tensorrt"))
    assert coverage.findings == ()
    whole, small = (
        load_engine("onnxruntime", GraphFile(path), threads=1).run(
            {"image": np.asarray(Image.open(tmp_path / "images" / "000.png"))[np.newaxis]}
        )
        for path in (siglip_bundle.file(VISION_GRAPH), tmp_path / VISION_GRAPH)
    )
    assert cosine(small["pooled"], whole["pooled"]) > 0.8


def test_each_method_of_calibration_does_what_it_is_for() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=100_000).astype(np.float32)
    values[0] = -30.0
    counts, edges = np.histogram(values, 2048, range=(-30, 30))
    spread = Spread(counts, edges, float(values.min()), float(values.max()))
    methods: list[Method] = ["min-max", "percentile", "mse"]
    ranges = [spread.range(name, 99.9, 5) for name in methods]
    errors = []
    for largest in ranges:
        step = symmetric_steps(np.array(largest), 5)
        codes = np.clip(np.rint(values / step), -15, 15)
        errors.append(float(np.square(codes * step - values).mean()))
    assert ranges[0] == 30.0
    assert (np.abs(values) <= ranges[1]).mean() == pytest.approx(0.999, abs=5e-4)
    assert errors[2] == min(errors)


def set_int8(plan: dict[str, Any], group: str) -> None:
    plan["groups"][group] |= dict.fromkeys(GRAPHS, "int8")


def set_nothing(plan: dict[str, Any]) -> None:
    for group in plan["groups"].values():
        group |= {VISION_GRAPH: "float32", VISION_FP16_GRAPH: "float16"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda p: p["groups"]["heads"]["layers"].append("layers.9.fc1"),
            "layer layers.9.fc1, whi",
        ),
        (
            lambda p: p["groups"]["heads"]["layers"].append("head.out"),
            "head.out is listed twice",
        ),
        (lambda p: p["groups"]["heads"].update({VISION_GRAPH: "int8"}), "both to int8"),
        (lambda p: p["groups"]["heads"].update({VISION_GRAPH: "int4"}), r"heads\.vision\.onnx"),
        (lambda p: set_int8(p, "patch-embedding"), "patch_embedding to int8; only linear layers"),
        (set_nothing, "quantizes no layer"),
        (lambda p: p.update(bits={"weights": 5}), r"bits\.weights: Input should be 4 or 8"),
        (
            lambda p: p.update(attention_products={"layers": ["head"]}),
            "attention_products of the precision config names head, which this tower does not",
        ),
        (lambda p: p.update(percentile=0), "percentile"),
        (
            lambda p: p.update(language_vision={"groups": p["groups"]}),
            r"language_vision\.groups\.feed-forward\.language_vision\.onnx: Field required",
        ),
        (lambda p: p.update(language_vision={}), "no vision tower of its own; remove that part"),
    ],
)
def test_a_plan_that_cannot_be_gets_a_sentence(
    siglip_bundle: ModelBundle,
    plan: dict[str, Any],
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    edit(plan)
    with pytest.raises(ExportError, match=message):
        requantize(siglip_bundle, tmp_path, plan)


def test_a_decoder_in_int4_is_small_and_says_nearly_the_same(
    siglip_bundle: ModelBundle, plan: dict[str, Any], tmp_path: Path
) -> None:
    plan["decoder"] = "int4-weights"
    whole = siglip_bundle.file(DECODER_GRAPH)
    with pytest.raises(ExportError, match="has no vlm/"):
        requantize(siglip_bundle, tmp_path, plan)
    small = Path(shutil.copy(whole, tmp_path))
    requantize(siglip_bundle, tmp_path, plan)
    kinds = {node.name.partition("/")[0]: node.op_type for node in onnx.load(small).graph.node}
    assert kinds["layers.0.gate_up"] == "MatMulNBits"
    assert kinds["head"] == "MatMul"
    assert small.stat().st_size < 0.7 * whole.stat().st_size
    with np.load(siglip_bundle.file("golden.npz")) as golden:
        prefix = f"{DECODER_GRAPH}/in/"
        names = [name for name in golden.files if name.startswith(prefix)]
        inputs = {name.removeprefix(prefix): golden[name] for name in names}
    ours, theirs = (
        load_engine("onnxruntime", GraphFile(path), threads=1).run(inputs)
        for path in (small, whole)
    )
    check_alike(ours, theirs, 0.9)


def test_a_plan_that_is_no_yaml_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("groups: [", encoding="utf-8")
    for name in ("plan.yaml", "missing.yaml"):
        with pytest.raises(ExportError, match=f"{name} cannot be read"):
            read_config(tmp_path / name)


@given(st.floats(min_value=0.0, max_value=1e6))
def test_a_step_is_just_large_enough_and_fp16_holds_it(largest: float) -> None:
    step = symmetric_steps(np.array(largest))
    assert np.float16(step) == step
    assert step * 127 >= largest
    assert step == LEAST_STEP or step * 127 <= largest * 1.001


def test_golden_outputs_accept_another_rounding_and_no_other_network() -> None:
    generator = np.random.default_rng(0)
    stored = {
        "pooled": generator.normal(size=(1, 16)),
        "tokens": generator.normal(size=(1, 8, 32)),
        "token_index": np.array([1, 4, 6, 9, 10, 12, 13, -1]),
    }
    near = stored | {"pooled": stored["pooled"] + 0.01}
    assert check_alike(near, stored, 0.99) == pytest.approx(0.01)
    swapped = {
        "pooled": stored["pooled"],
        "tokens": np.roll(stored["tokens"], 1, axis=1),
        "token_index": np.array([-1, 1, 4, 6, 9, 10, 12, 14]),
    }
    assert check_alike(swapped, stored, 0.99) < 1e-12
    for name, other in (
        ("pooled", {"pooled": generator.normal(size=(1, 16))}),
        ("tokens", {"tokens": np.full((1, 8, 32), np.nan)}),
        ("token_index", {"token_index": np.arange(20, 28)}),
    ):
        with pytest.raises(GoldenError) as caught:
            check_alike(stored | other, stored, 0.99)
        assert caught.value.output == name


@pytest.mark.parametrize(
    ("config", "coarse"),
    [
        (PrecisionConfig(), False),
        (PrecisionConfig(bits=Bits(weights=4)), False),
        (PrecisionConfig(attention_products=AttentionProducts(bits=5)), True),
        (
            PrecisionConfig(
                bits=Bits(inputs=8),
                groups={
                    "feed-forward": GroupConfig.model_validate(
                        {
                            "vision.onnx": "int8",
                            "vision.fp16.onnx": "int8",
                            "layers": ("a",),
                            "bits": Bits(inputs=6),
                        }
                    )
                },
            ),
            True,
        ),
    ],
)
def test_golden_outputs_allow_a_tower_of_few_bits_more(
    config: PrecisionConfig, coarse: bool
) -> None:
    allowed = golden_spec((VISION_GRAPH, LANGUAGE_VISION_GRAPH, DECODER_GRAPH), config).cosine
    assert allowed[LANGUAGE_VISION_GRAPH] == allowed[DECODER_GRAPH] == 0.99
    assert allowed[VISION_GRAPH] == (0.9 if coarse else 0.99)


@pytest.fixture
def lossy(tmp_path: Path) -> tuple[Path, ExportOptions]:
    """A dual encoder, and enough images to calibrate it."""
    write_images(tmp_path / "images", (64, 36), 460)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language=None)
    return checkpoint, ExportOptions(
        precision="int8-mixed", calibration=tmp_path / "images", validate=False
    )


def test_a_quantized_bundle_says_how_it_computes(
    lossy: tuple[Path, ExportOptions], tmp_path: Path
) -> None:
    checkpoint, options = lossy
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    assert bundle.manifest.precision == "int8-mixed"
    assert bundle.manifest.precision_plan == CONFIG_NAME
    plan = read_config(bundle.file(CONFIG_NAME))
    assert plan.measured is not None
    assert plan.measured.images >= 200
    assert bundle.manifest.golden.cosine.keys() == {VISION_GRAPH}
    assert bundle.verify_golden().keys() == {"text.onnx", *GRAPHS}


def test_an_interrupted_export_leaves_nothing(
    lossy: tuple[Path, ExportOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    checkpoint, options = lossy
    monkeypatch.setattr(write_bundle, "quantize_graphs", interrupt)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert sorted(tmp_path.iterdir()) == before
