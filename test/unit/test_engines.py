# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The engines agree, and `auto` takes the one that was measured to be the fastest."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from support.places import ROOT

from vlm_perception.bundle.bundle import VISION_FP16_GRAPH, BundleError, ModelBundle
from vlm_perception.engines import choose as choosing
from vlm_perception.engines import openvino as openvino_engine
from vlm_perception.engines import registry
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.choose import CACHE_NAME, choose
from vlm_perception.engines.onnxruntime import ONNXRUNTIME, OnnxRuntime
from vlm_perception.engines.openvino import OPENVINO
from vlm_perception.engines.registry import load_engine
from vlm_perception.engines.steps import Work
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder

TOLERANCE = 1e-4


@pytest.fixture(params=[pytest.param("random", marks=pytest.mark.torch), "roadworld-nano"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    if request.param == "random":
        return request.getfixturevalue("clip_bundle")
    return ModelBundle.load(ROOT / "models" / "roadworld-nano")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of decisions, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlm_perception" / CACHE_NAME


@pytest.mark.slow
def test_openvino_gives_what_onnx_runtime_gives(bundle: ModelBundle) -> None:
    with np.load(bundle.file(bundle.manifest.golden.file)) as golden:
        stored = dict(golden)
    for graph in bundle.graphs():
        other = bundle.engine(graph, engine=OPENVINO, threads=2)
        bundle.verify_golden({graph: other})
        if graph == VISION_FP16_GRAPH or graph in bundle.manifest.golden.cosine:
            continue  # INT8 products are rounded in other ways; the stored outputs allow for that
        usual = bundle.engine(graph)
        assert other.inputs.keys() == usual.inputs.keys()
        assert {name: spec.dtype for name, spec in other.outputs.items()} == {
            name: spec.dtype for name, spec in usual.outputs.items()
        }
        inputs = {name: stored[f"{graph}/in/{name}"] for name in usual.inputs}
        expected, outputs = usual.run(inputs), other.run(inputs)
        kept = {name: value.copy() for name, value in outputs.items()}
        other.run({name: np.flip(value).copy() for name, value in inputs.items()})
        for name, value in kept.items():
            np.testing.assert_array_equal(outputs[name], value, "a run changed what was given out")
            np.testing.assert_allclose(value, expected[name], atol=TOLERANCE, rtol=TOLERANCE)


def test_openvino_captions_and_answers_as_onnx_runtime_does(bundle: ModelBundle) -> None:
    """Lengths change from call to call, caches are views, and a prefill asks for no logits."""
    spec = bundle.manifest.vision
    tokens = np.random.default_rng(3).normal(size=(spec.tokens, spec.token_width))
    said = []
    for engine in (ONNXRUNTIME, OPENVINO):
        language = LanguageModel(bundle, engine=engine)
        prefix = language.prefill(tokens.astype(np.float16))
        packed = language.pack(bundle.manifest.questions)
        caption = language.generate(prefix, "describe the scene", max_tokens=8)
        said.append((caption, language.log_likelihoods(prefix, packed)))
    assert said[0][0] == said[1][0]
    np.testing.assert_allclose(said[0][1], said[1][1], atol=1e-3)


def test_a_run_of_onnx_runtime_can_be_ended(tmp_path: Path) -> None:
    names = [f"x{index}" for index in range(2001)]
    weights = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], [y]) for x, y in itertools.pairwise(names)],
        "slow",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["rows", 256])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["rows", 256])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, tmp_path / "slow.onnx")
    engine = load_engine(ONNXRUNTIME, GraphFile(tmp_path / "slow.onnx"), threads=1)

    def end() -> None:
        while work.step is None or work.step.cancel is None:
            time.sleep(0.01)
        time.sleep(0.05)  # What is ended before it has begun is not begun.
        work.step.cancel()

    with Work("run") as work, ThreadPoolExecutor() as pool:
        ended = pool.submit(end)
        with pytest.raises(EngineError, match="was aborted"):
            engine.run({"x0": np.zeros((20_000, 256), np.float32)})  # would take a minute
        ended.result()
        ones = np.ones((1, 256), np.float32)
        np.testing.assert_array_equal(engine.run({"x0": ones})["x2000"], ones)


def test_openvino_refuses_as_every_engine_does(siglip_bundle: ModelBundle, tmp_path: Path) -> None:
    engine = siglip_bundle.engine("vision.onnx", engine=OPENVINO)
    with pytest.raises(EngineError, match=r"uint8 \[1, 36, 64, 3\] but is float32"):
        engine.run({"image": np.zeros((1, 36, 64, 3), np.float32)})
    with pytest.raises(EngineError, match="at least one thread"):
        siglip_bundle.engine("vision.onnx", engine=OPENVINO, threads=0)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"OpenVINO .* cannot load .*broken\.onnx"):
        openvino_engine.OpenVinoEngine(tmp_path / "broken.onnx")
    with pytest.raises(EngineError, match="no engine 'tensorflow'; choose one of auto, onnx"):
        siglip_bundle.engine("vision.onnx", engine="tensorflow")


def test_without_openvino_the_message_says_how_to_get_it(
    siglip_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_engine.library.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"`pip install openvino`, or choose the engine onnxrun"):
        siglip_bundle.engine("vision.onnx", engine=OPENVINO)


def test_the_engines_report_to_nobody(siglip_bundle: ModelBundle, tmp_path: Path) -> None:
    """Left alone, both report each use over the network and write an identity into the home."""
    code = (
        "import sys; from pathlib import Path\n"
        "from vlm_perception.engines.backend import GraphFile\n"
        "from vlm_perception.engines.registry import load_engine\n"
        "graph = GraphFile(Path(sys.argv[1]))\n"
        "for name in sys.argv[2:]: load_engine(name, graph, threads=1)\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
    )
    command = [sys.executable, "-c", code, str(siglip_bundle.file("vision.onnx"))]
    private = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**private, "HOME": str(tmp_path)}
    subprocess.run([*command, ONNXRUNTIME, OPENVINO], env=environment, check=True, timeout=60)
    assert not list(tmp_path.iterdir())


class Clock:
    """Stands still but for the engines below."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """An engine that takes a given time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.runs = clock, seconds, 0

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.clock.now += self.seconds
        self.runs += 1
        return {}


class Race:
    """Two engines of given speeds that `choose` may load."""

    def __init__(self, onnxruntime: float, openvino: float) -> None:
        self.clock = Clock()
        self.engines = {
            ONNXRUNTIME: Timed(self.clock, onnxruntime),
            OPENVINO: Timed(self.clock, openvino),
        }
        self.refuse: set[str] = set()
        self.fail: set[str] = set()
        self.loads = 0

    def load(self, name: str) -> Any:
        self.loads += 1
        if name in self.refuse:
            raise BundleError(f"{name} gives another pooled")
        if name in self.fail:
            np.zeros(3).reshape(4)
        return self.engines[name]

    def choose(self, **subject: Any) -> str:
        return choose({"graph": "vision.onnx", **subject}, self.load, [{}], clock=self.clock)


@pytest.mark.parametrize(
    ("onnxruntime", "openvino", "chosen"),
    [(0.02, 0.01, OPENVINO), (0.01, 0.02, ONNXRUNTIME), (0.0100, 0.0098, ONNXRUNTIME)],
)
def test_the_faster_engine_is_chosen_and_a_tie_changes_nothing(
    cache: Path, onnxruntime: float, openvino: float, chosen: str
) -> None:
    race = Race(onnxruntime, openvino)
    assert race.choose() == chosen
    [decision] = json.loads(cache.read_text())
    assert decision["engine"] == chosen
    assert decision["median_ms"] == pytest.approx(
        {ONNXRUNTIME: 1e3 * onnxruntime, OPENVINO: 1e3 * openvino}
    )


def test_slow_graphs_are_measured_few_times(cache: Path) -> None:
    race = Race(5.0, 4.0)
    assert race.choose() == OPENVINO
    assert race.engines[OPENVINO].runs == choosing.WARM_UP_ROUNDS + choosing.LEAST_ROUNDS


def test_a_decision_holds_until_what_it_depends_on_changes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Race(0.02, 0.01).choose(threads=1) == OPENVINO
    again = Race(0.01, 0.02)
    assert again.choose(threads=1) == OPENVINO
    assert again.loads == 0
    assert again.choose(threads=2) == ONNXRUNTIME
    monkeypatch.setattr(choosing, "cpu_model", lambda: "another processor")
    assert Race(0.01, 0.02).choose(threads=1) == ONNXRUNTIME
    monkeypatch.setattr(choosing, "measurable", lambda: {ONNXRUNTIME: "2", OPENVINO: "3"})
    assert Race(0.01, 0.02).choose(threads=1) == ONNXRUNTIME
    assert len(json.loads(cache.read_text())) == 4


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"engine": "openvino"}]', b"\xff"])
def test_a_broken_cache_is_replaced(
    cache: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Race(0.02, 0.01).choose() == OPENVINO
    assert f"{cache} cannot be read and is rebuilt" in caplog.text
    assert len(json.loads(cache.read_text())) == 1


def test_without_a_place_for_the_cache_each_start_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Race(0.02, 0.01).choose() == OPENVINO
    assert Race(0.01, 0.02).choose() == ONNXRUNTIME
    assert "cannot be saved" in caplog.text


def test_an_engine_that_is_refused_or_missing_is_never_chosen(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    race = Race(0.02, 0.01)
    race.refuse = {OPENVINO}
    assert race.choose() == ONNXRUNTIME
    assert "openvino is left out of the selection: openvino gives another pooled" in caplog.text
    race.refuse = {ONNXRUNTIME, OPENVINO}
    with pytest.raises(EngineError, match="no engine can be used: onnxruntime gives"):
        race.choose(threads=2)
    race.refuse, race.fail = set(), {OPENVINO}
    with pytest.raises(ValueError, match="cannot reshape"):
        race.choose(threads=2)
    monkeypatch.setattr(choosing, "measurable", lambda: {ONNXRUNTIME: "1"})
    race.loads = 0
    assert race.choose(threads=3) == ONNXRUNTIME
    assert race.loads == 0


def test_a_backend_is_one_row(
    cache: Path, siglip_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Another(OnnxRuntime):
        """One more library, whose row is all that the package is told of it."""

        name = "another"

        def prepare(self, graph: GraphFile) -> Path:
            if graph.decoder:
                raise EngineError("another takes no decoder")
            return graph.path

    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, Another()))
    assert registry.choices()[-1] == "another"
    VisionEncoder(siglip_bundle, engine="another").warm_up()
    with pytest.raises(EngineError, match="another takes no decoder"):
        LanguageModel(siglip_bundle, engine="another")
    VisionEncoder(siglip_bundle, engine="auto")
    LanguageModel(siglip_bundle, engine="auto")
    vision, decoder = json.loads(cache.read_text())
    assert set(vision["median_ms"]) == {ONNXRUNTIME, OPENVINO, "another"}
    assert set(decoder["median_ms"]) == {ONNXRUNTIME, OPENVINO}


def test_auto_measures_the_bundle_and_remembers(cache: Path, siglip_bundle: ModelBundle) -> None:
    encoder = VisionEncoder(siglip_bundle, engine="auto")
    language = LanguageModel(siglip_bundle, engine="auto")
    decisions = json.loads(cache.read_text())
    assert [each["question"]["graph"] for each in decisions] == ["vision.onnx", "decoder.onnx"]
    for decision, name in zip(decisions, (encoder.engine_name, language.engine_name), strict=True):
        assert name.startswith(decision["engine"])
        assert set(decision["median_ms"]) == {ONNXRUNTIME, OPENVINO}
        assert decision["question"]["bundle"] == siglip_bundle.digest
    written = cache.stat().st_mtime_ns
    encoder.warm_up()
    VisionEncoder(siglip_bundle, engine="auto")
    assert cache.stat().st_mtime_ns == written
