# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.progress import Progress

from vlm_perception.bundle import DECODER_GRAPH, VISION_GRAPH, ModelBundle, find_bundle
from vlm_perception.deploy.coverage import cover_graph, load_target
from vlm_perception.deploy.errors import ExportError
from vlm_perception.deploy.half_products import PRODUCTS
from vlm_perception.deploy.tensorrt_build import require_native
from vlm_perception.deploy.tensorrt_graphs import TensorRtGraph, tensorrt_graphs
from vlm_perception.deploy.tensorrt_layers import planned_precisions, read_layers
from vlm_perception.deploy.tensorrt_memory import MEBIBYTE, require_memory
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.choose import ONNXRUNTIME, TENSORRT
from vlm_perception.engines.load_tensorrt import tensorrt_module
from vlm_perception.engines.plan_check import require_loadable
from vlm_perception.engines.plans import RECIPE, BuildOptions, Machine, PlanKey
from vlm_perception.evaluation.gpu import measure
from vlm_perception.evaluation.gpu_work import Work, open_work
from vlm_perception.manifest import FileEntry
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.perception.handover import FRAMES, TOKENS
from vlm_perception.perception.language import LanguageModel
from vlm_perception.types import Frame

SIMULATED = Path(__file__).parent / "simulated_gpu"
MODULES = ("tensorrt", "pycuda")
OURS = (
    "engines.cuda",
    "engines.tensorrt_messages",
    "engines.tensorrt_program",
    "engines.tensorrt",
    "engines.tensorrt_decoder",
    "deploy.tensorrt",
)


@pytest.fixture(scope="session")
def shipped() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped bundle with plans for the simulated GPU."""
    folder = tmp_path_factory.mktemp("bundle") / "roadworld-nano"
    source = find_bundle("roadworld-nano")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("tensorrt"))
    result = build(folder, folder.parent)
    assert result.returncode == 0, result.stderr
    return folder


def build(
    bundle: Path, cache: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    paths = [str(SIMULATED), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "vlm_perception.cli", "build", str(bundle), *options],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "XDG_CACHE_HOME": str(cache),
            "COLUMNS": "200",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The simulated GPU in this process and its children."""
    monkeypatch.syspath_prepend(str(SIMULATED))
    paths = [str(SIMULATED), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget_modules()
    yield
    forget_modules()
    TOKENS.wanted = False


def forget_modules() -> None:
    ours = {f"vlm_perception.{name}" for name in OURS}
    for name in list(sys.modules):
        if name.split(".")[0] in MODULES or name in ours:
            del sys.modules[name]


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
    with pytest.raises(ExportError, match="MiB of memory and 2048 MiB are free"):
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
        key.differences("b", HERE.model_copy(update=machine))[0] == "it was built of another graph"
    )


def test_building_twice_builds_once(built: Path) -> None:
    again = build(built, built.parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("was there") == 3
    assert len(list((built / "tensorrt").glob("*.plan"))) == 3
    assert [file.name for file in (built / "tensorrt").glob("*.cache")] == [
        "timing-10.3.0-sm8.7.cache"
    ]


def test_a_build_that_fails_leaves_nothing_that_counts(built: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "roadworld-nano"
    shutil.copytree(built, bundle, ignore=shutil.ignore_patterns("tensorrt"))
    # Not even root can make a folder where a file is: the plans go to the user's cache.
    (bundle / "tensorrt").touch()
    failed = build(bundle, tmp_path, SIMULATED_BUILD="fails")
    assert failed.returncode == 2
    assert "cannot build vision.onnx: could not find a kernel" in failed.stderr
    crashed = build(bundle, tmp_path, SIMULATED_BUILD="crashing plan")
    assert crashed.returncode == 2
    assert "SIGABRT" in crashed.stderr
    assert not list((tmp_path / "vlm_perception").rglob("*.json"))
    missing = build(bundle, tmp_path, SIMULATED_GPU="missing")
    assert missing.returncode == 2
    assert "no CUDA-capable device" in missing.stderr
    old = build(bundle, tmp_path, SIMULATED_START="fails")
    assert old.returncode == 2
    assert "cannot use the GPU (factory function returned nullptr): update the" in old.stderr
    timing = next((tmp_path / "vlm_perception" / "tensorrt").rglob("timing-*.cache"))
    timing.write_bytes(b"damaged")
    assert build(bundle, tmp_path).returncode == 0
    assert len(list((tmp_path / "vlm_perception" / "tensorrt").rglob("*.json"))) == 3


@pytest.mark.usefixtures("gpu")
def test_a_node_that_is_to_build_only_builds_and_ends(built: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built, bundle)
    (plan,) = (bundle / "tensorrt").glob("vision-*.plan")
    plan.unlink()
    arguments = {"bundle": str(bundle), "engine": "tensorrt", "plans": "build_only"}
    result = subprocess.run(
        [
            *(sys.executable, "-m", "vlm_perception.nodes.vision_encoder", "--ros-args"),
            *(part for name, value in arguments.items() for part in ("-p", f"{name}:={value}")),
        ],
        cwd=tmp_path,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the plans are built" in result.stdout + result.stderr
    assert plan.exists()


def test_layers_are_held_against_the_graph(built: Path, tmp_path: Path) -> None:
    report = tmp_path / "layers.json"
    result = build(built, built.parent, "--layers", "--json", str(report))
    assert result.returncode == 0, result.stderr
    assert "1 fell back" in result.stdout
    vision = json.loads(report.read_text())[0]
    # The simulated layer reads FP16, and the graph plans INT8.
    assert vision["layers"][0]["fell_back"]
    assert vision["missing"] == []


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


@pytest.mark.usefixtures("gpu")
def test_the_encoder_gives_the_same_on_the_device(built: Path) -> None:
    bundle = ModelBundle.load(built)
    encoders = [VisionEncoder(bundle, engine=name) for name in (ONNXRUNTIME, TENSORRT)]
    assert encoders[1].engine_name == "tensorrt 10.3.0 on Simulated"
    for encoder in encoders:
        encoder.warm_up()
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])
    first, second = (each.encode(Frame(image, 1), 0) for each in encoders)
    assert float(first.pooled @ second.pooled) > 0.998
    assert first.tokens.shape == second.tokens.shape


@pytest.mark.usefixtures("gpu")
def test_the_decoder_gives_the_same_with_its_cache_on_the_device(built: Path) -> None:
    bundle = ModelBundle.load(built)
    models = [LanguageModel(bundle, engine=name) for name in (ONNXRUNTIME, TENSORRT)]
    for model in models:
        model.verify()
    golden = np.load(built / "golden.npz")
    images = [
        golden["projector.onnx/in/tokens"][0].astype(np.float16),
        np.roll(golden["projector.onnx/in/tokens"][0], 7, axis=0).astype(np.float16),
    ]
    text = bundle.manifest.language.caption_prompt  # type: ignore[union-attr]
    told = []
    for model in models:
        packed = model.pack(bundle.manifest.questions)
        prefixes = [model.prefill(image) for image in images]
        # Turns: each branch must find its own tail, and each prefix its own image.
        branches = [
            model.stream(prefix, text, max_tokens=12) for prefix in (*prefixes, prefixes[0])
        ]
        tokens: list[list[int]] = [[], [], []]
        for _ in range(12):
            for branch, ids in zip(branches, tokens, strict=True):
                token = next(branch, None)
                if token is not None:
                    ids.append(token.index)
            answers = [model.log_likelihoods(prefix, packed) for prefix in prefixes]
        told.append((tokens, np.concatenate(answers)))
    (first_tokens, first), (second_tokens, second) = told
    assert first_tokens == second_tokens
    assert first_tokens[0] == first_tokens[2]
    np.testing.assert_allclose(first, second, atol=0.02)


@pytest.mark.usefixtures("gpu")
def test_tokens_stay_on_the_device_between_encoder_and_projector(built: Path) -> None:
    bundle = ModelBundle.load(built)
    language = LanguageModel(bundle, engine=TENSORRT)
    encoder = VisionEncoder(bundle, engine=TENSORRT, run_id="run")
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])
    seen = encoder.encode(Frame(image, 1), 5)
    encoder.encode(Frame(255 - image, 2), 6)
    packed = language.pack(bundle.manifest.questions)
    uploaded = language.log_likelihoods(language.prefill(seen.tokens), packed)
    # The array says nothing: what the projector reads must be what was left on the device.
    blank = np.zeros_like(seen.tokens)
    kept = language.log_likelihoods(language.prefill(blank, ("run", 5)), packed)
    np.testing.assert_allclose(kept, uploaded, atol=0.02)
    other = language.log_likelihoods(language.prefill(blank, ("run", 6)), packed)
    assert np.abs(other - uploaded).max() > 0.1


@pytest.mark.usefixtures("gpu")
def test_a_failing_layer_is_named(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ModelBundle.load(built).engine(VISION_GRAPH, engine=TENSORRT)
    monkeypatch.setenv("SIMULATED_GPU_FAILS", "1")
    with pytest.raises(EngineError, match=r"layers\.mlps\.0/Gemm: failed"):
        engine.run({"image": np.zeros((1, 180, 320, 3), np.uint8)})


@pytest.mark.usefixtures("gpu")
def test_a_plan_that_does_not_fit_is_refused_and_auto_takes_another(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle_path = tmp_path / "bundle"
    shutil.copytree(built, bundle_path)
    plan = next((bundle_path / "tensorrt").glob("vision-*.plan"))
    plan.write_bytes(plan.read_bytes()[:-1])
    bundle = ModelBundle.load(bundle_path)
    with pytest.raises(EngineError, match="truncated or altered"):
        bundle.engine(VISION_GRAPH, engine=TENSORRT)
    engine = bundle.engine(VISION_GRAPH, engine="auto")
    assert not engine.name.startswith(TENSORRT)
    assert "TensorRT is not used: no plan of vision.onnx fits" in caplog.text
    forget_modules()
    monkeypatch.setenv("SIMULATED_GPU", "Another GPU")
    with pytest.raises(EngineError, match=r"built on Simulated .*this is Another GPU"):
        bundle.engine(DECODER_GRAPH, engine=TENSORRT)


@pytest.mark.usefixtures("gpu")
def test_what_is_reported_at_the_start_ends_the_load(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_START", "reports")
    with pytest.raises(EngineError, match=r"cannot use the GPU \(CUDA .* 35\): update the driver"):
        ModelBundle.load(built).engine(VISION_GRAPH, engine=TENSORRT)


@pytest.mark.usefixtures("gpu")
def test_nothing_is_taken_from_the_device_while_it_works(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = ModelBundle.load(built)
    language = LanguageModel(bundle, engine=TENSORRT)
    encoder = VisionEncoder(bundle, engine=TENSORRT, run_id="run")
    packed = language.pack(bundle.manifest.questions)
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])

    def work(sequence: int) -> None:
        seen = encoder.encode(Frame(image, 1), sequence)
        prefix = language.prefill(seen.tokens, ("run", sequence))
        language.log_likelihoods(prefix, packed)
        list(language.stream(prefix, "what is there?", max_tokens=3))

    # One more than are kept between the engines.
    for sequence in range(FRAMES + 1):
        work(sequence)
    pycuda = importlib.import_module("pycuda.driver")
    taken: list[int] = []
    take = pycuda.mem_alloc
    monkeypatch.setattr(pycuda, "mem_alloc", lambda size: (taken.append(size), take(size))[1])
    for sequence in range(FRAMES + 1, FRAMES + 4):
        work(sequence)
    assert taken == []


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("engine", [TENSORRT, ONNXRUNTIME])
def test_the_benchmark_of_a_gpu_runs(built: Path, engine: str) -> None:
    bundle = ModelBundle.load(built)

    def open_one(priority: bool) -> Work:
        return open_work(bundle, engine, priority=priority, on_cpu=engine == ONNXRUNTIME)

    figures = measure(open_one, 0.01, Progress(disable=True))
    assert figures.engine.startswith(engine)
    assert list(figures.alone) == ["encoder", "image", "text", "token"]
    assert [each.priority for each in figures.beside] == [False, True]
    assert all(each.language_hz >= 0 and each.ratio > 0 for each in figures.beside)
    assert all(0 < each.p50 <= each.p99 for each in figures.alone.values())


def test_weights_beside_a_graph_and_the_prompt_count_for_its_plan(shipped: ModelBundle) -> None:
    manifest = shipped.manifest
    beside = FileEntry(sha256="0" * 64, bytes=1)
    files = {**manifest.files, f"{DECODER_GRAPH}.data": beside}
    language = manifest.language.model_copy(update={"prompt": "{image}"})  # type: ignore[union-attr]
    for update in ({"files": files}, {"language": language}):
        other = replace(shipped, manifest=manifest.model_copy(update=update))
        assert other.plan_digest(DECODER_GRAPH) != shipped.plan_digest(DECODER_GRAPH)
        assert other.plan_digest(VISION_GRAPH) == shipped.plan_digest(VISION_GRAPH)


def test_a_folder_called_tensorrt_is_no_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        tensorrt_module("vlm_perception.engines.cuda")


def test_without_tensorrt_the_engine_says_what_to_install(shipped: ModelBundle) -> None:
    with pytest.raises(EngineError, match=r"TensorRT is not installed.*or choose another engine"):
        shipped.engine(VISION_GRAPH, engine=TENSORRT)


def test_a_process_that_crashes_on_a_plan_is_an_error_and_no_crash(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(EngineError, match=r"SIGSEGV.*Build it again"):
        require_loadable(tmp_path / "foreign.plan", [sys.executable, "-c", code])


def test_a_size_that_is_free_is_found(shipped: ModelBundle) -> None:
    decoder = next(g for g in tensorrt_graphs(shipped) if g.name == DECODER_GRAPH)
    name, shapes = decoder.profiles[0]
    # A KV cache that grows, as in the bundle's own graph.
    free = {**shapes, "past": (*shapes["past"][:4], -1, shapes["past"][5])}
    model = onnx.load(shipped.file(DECODER_GRAPH))
    grown = TensorRtGraph(decoder.name, decoder.source, model, ((name, free),))
    with pytest.raises(ExportError, match=r"decoder\.onnx does not fit TensorRT: tensor past"):
        require_native([grown], dla=False)
