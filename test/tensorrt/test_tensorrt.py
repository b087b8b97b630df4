# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress
from support.places import SUPPORT

from vlm_perception.bundle.bundle import DECODER_GRAPH, VISION_GRAPH, ModelBundle, find_bundle
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.engines.tensorrt.backend import TENSORRT
from vlm_perception.engines.tensorrt.load import tensorrt_module
from vlm_perception.engines.tensorrt.load_probe import require_loadable
from vlm_perception.evaluation.bench.gpu import measure
from vlm_perception.evaluation.bench.gpu_work import Work, open_work
from vlm_perception.perception import device_tokens
from vlm_perception.perception.device_tokens import FRAMES, DeviceTokens
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

SIMULATED = SUPPORT / "simulated_gpu"
MODULES = ("tensorrt", "pycuda")
OURS = (
    "engines.tensorrt.cuda",
    "engines.tensorrt.log",
    "engines.tensorrt.program",
    "engines.tensorrt.engine",
    "engines.tensorrt.decoder",
    "deploy.tensorrt.builder",
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


def forget_modules() -> None:
    ours = {f"vlm_perception.{name}" for name in OURS}
    for name in list(sys.modules):
        if name.split(".")[0] in MODULES or name in ours:
            del sys.modules[name]


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


def sharing(bundle: ModelBundle) -> tuple[VisionEncoder, LanguageModel]:
    """The two as the node of all has them."""
    tokens = DeviceTokens()
    return (
        VisionEncoder(bundle, engine=TENSORRT, run_id="run", device_tokens=tokens),
        LanguageModel(bundle, engine=TENSORRT, device_tokens=tokens),
    )


@pytest.mark.usefixtures("gpu")
def test_tokens_stay_on_the_device_between_encoder_and_projector(built: Path) -> None:
    bundle = ModelBundle.load(built)
    encoder, language = sharing(bundle)
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])
    # Who reads for the first time finds nothing, and then all that comes.
    language.read(encoder.encode(Frame(image, 1), 4))
    seen = encoder.encode(Frame(image, 1), 5)
    unlike = encoder.encode(Frame(255 - image, 2), 6)
    packed = language.pack(bundle.manifest.questions)
    uploaded = language.log_likelihoods(language.prefill(seen.tokens), packed)
    # The array says nothing: what the projector reads must be what was left on the device.
    blank = np.zeros_like(seen.tokens)
    kept = language.log_likelihoods(language.read(replace(seen, tokens=blank)), packed)
    np.testing.assert_allclose(kept, uploaded, atol=0.02)
    other = language.log_likelihoods(language.read(replace(unlike, tokens=blank)), packed)
    assert np.abs(other - uploaded).max() > 0.1


@pytest.mark.usefixtures("gpu")
def test_tokens_are_kept_only_while_somebody_reads_them(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_tokens, "UNREAD_FRAMES", 3)
    engine = importlib.import_module("vlm_perception.engines.tensorrt.engine").TensorRtEngine
    copies: list[weakref.ref[object]] = []
    keep = engine.keep

    def counted(self: object, name: str) -> object:
        tokens = keep(self, name)
        copies.append(weakref.ref(tokens))
        return tokens

    monkeypatch.setattr(engine, "keep", counted)
    bundle = ModelBundle.load(built)
    encoder, language = sharing(bundle)
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])

    def copied(frames: int) -> int:
        before = len(copies)
        for sequence in range(frames):
            seen = encoder.encode(Frame(image, 1), sequence)
        # As long as the language node is active, it reads now and then.
        language.read(seen)
        return len(copies) - before

    assert [copied(2), copied(2), copied(3)] == [0, 2, 3]
    for sequence in range(10):
        encoder.encode(Frame(image, 1), sequence)
    assert len(copies) == 5 + 3, "the encoder goes on copying for nobody"
    assert not any(tokens() for tokens in copies), "the device's memory is not given back"
    assert [copied(2), copied(2)] == [0, 2], "who reads again is served again"


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
    assert "tensorrt is not used: no plan for vision.onnx fits" in caplog.text
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
    encoder, language = sharing(bundle)
    packed = language.pack(bundle.manifest.questions)
    image = np.asarray(np.load(built / "golden.npz")["vision.onnx/in/image"][0])

    def work(sequence: int) -> None:
        seen = encoder.encode(Frame(image, 1), sequence)
        prefix = language.read(seen)
        language.log_likelihoods(prefix, packed)
        list(language.stream(prefix, "what is there?", max_tokens=3))

    # Two more than are kept between the engines: the first finds nobody who has read yet.
    for sequence in range(FRAMES + 2):
        work(sequence)
    pycuda = importlib.import_module("pycuda.driver")
    taken: list[int] = []
    take = pycuda.mem_alloc
    monkeypatch.setattr(pycuda, "mem_alloc", lambda size: (taken.append(size), take(size))[1])
    for sequence in range(FRAMES + 2, FRAMES + 5):
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


def test_a_folder_called_tensorrt_is_no_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        tensorrt_module("vlm_perception.engines.tensorrt.cuda")


def test_without_tensorrt_the_engine_says_what_to_install(shipped: ModelBundle) -> None:
    with pytest.raises(EngineError, match=r"TensorRT is not installed.*or choose another engine"):
        shipped.engine(VISION_GRAPH, engine=TENSORRT)


def test_a_process_that_crashes_on_a_plan_is_an_error_and_no_crash(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(EngineError, match=r"SIGSEGV.*Build it again"):
        require_loadable(tmp_path / "foreign.plan", [sys.executable, "-c", code])
