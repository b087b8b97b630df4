# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The trained temporal module: what it learns, how it is kept, and that the engine agrees."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import yaml
from safetensors.torch import load_file

from vlm_perception.bundle.bundle import TEMPORAL_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import ReadoutSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.modeling.temporal_attention import (
    TemporalAttention,
    TemporalConfig,
    ages_within,
    load_temporal,
    save_temporal,
)
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.temporal_state import (
    TemporalState,
    TrainedAttention,
    TrainingFreeAttention,
    bundle_attention,
)
from vlm_perception.perception.vision.vocabulary import Vocabulary
from vlm_perception.training.loop import Schedule
from vlm_perception.training.temporal import RECIPE, fit_module
from vlm_perception.training.temporal_data import Seen
from vlm_perception.training.temporal_readout import fit_readouts
from vlm_perception.types import Frame

WIDTH = 64
START_NS = 1_000_000_000
READOUTS = (
    ReadoutSpec(name="light", choices=("red", "green", "none")),
    ReadoutSpec(name="rain", choices=("no", "yes")),
)


def module(width: int = WIDTH, slots: int = 8) -> TemporalAttention:
    torch.manual_seed(0)
    config = TemporalConfig(width=width, slots=slots, drift_unit=0.3, readouts=READOUTS)
    made = TemporalAttention(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(weight.half().float())
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def temporal_bundle(
    siglip_checkpoint: Path, siglip_bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory
) -> ModelBundle:
    """A bundle with a temporal module of random weights."""
    path = tmp_path_factory.mktemp("temporal") / "checkpoint"
    shutil.copytree(siglip_checkpoint, path)
    save_temporal(module(siglip_bundle.manifest.vision.embedding_width), path / "temporal")
    return export_bundle(path, path.parent / "bundle")


def stream(count: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Normalised vectors that wander."""
    steps = np.random.default_rng(4).normal(size=(count, width)).cumsum(axis=0) + 3.0
    return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True), np.float32)


def test_the_engine_with_its_ring_equals_torch_over_the_whole_sequence(
    temporal_bundle: ModelBundle,
) -> None:
    spec = temporal_bundle.manifest.temporal
    assert spec is not None
    assert (spec.slots, spec.drift_unit) == (8, 0.3)
    width = temporal_bundle.manifest.vision.embedding_width
    vectors = stream(30, width)
    gaps = np.random.default_rng(5).integers(20, 300, size=30)
    stamps = START_NS + np.cumsum(gaps) * 1_000_000
    times = torch.from_numpy((stamps - START_NS) * 1e-9)[None].float()
    whole = torch.from_numpy(vectors)[None]
    reference = module(width)
    states, events = reference.attend(whole, whole, ages_within(times, spec.slots))
    evidence = reference.evidence(states, events)
    runtime = TemporalState(width, bundle_attention(temporal_bundle))
    for tick, (vector, stamp) in enumerate(zip(vectors, stamps.tolist(), strict=True)):
        seen = runtime.attend(vector, stamp)
        np.testing.assert_allclose(seen.state, states[0, tick].numpy(), atol=1e-5)
        np.testing.assert_allclose(seen.event, events[0, tick].numpy(), atol=1e-5)
        assert seen.evidence is not None
        assert seen.evidence.readouts == READOUTS
        np.testing.assert_allclose(seen.evidence.values, evidence[0, tick].numpy(), atol=1e-4)
        assert seen.scale >= spec.drift_unit


def test_the_bundle_is_checked_and_the_reasoner_runs_its_module(
    temporal_bundle: ModelBundle, siglip_bundle: ModelBundle
) -> None:
    assert temporal_bundle.verify_golden()[TEMPORAL_GRAPH] < 1e-5
    assert isinstance(bundle_attention(temporal_bundle), TrainedAttention)
    assert isinstance(bundle_attention(siglip_bundle), TrainingFreeAttention)
    encoder, service = VisionEncoder(temporal_bundle), LanguageService(temporal_bundle)
    service.warm_up()
    reasoner = Reasoner(service)
    image = np.random.default_rng(6).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    said = [
        reasoner.reason(encoder.encode(Frame(image, START_NS + i * 100_000_000), i))
        for i in range(3)
    ]
    assert [each.trigger for each in said] == ["first", "none", "none"]
    assert said[0].attributes == said[2].attributes


def test_a_module_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    directory = save_temporal(module(), tmp_path / "temporal")
    again = load_temporal(directory, WIDTH)
    assert again is not None
    for name, weight in module().state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert load_temporal(tmp_path / "none", WIDTH) is None
    with pytest.raises(ExportError, match="width 64"):
        load_temporal(directory, 32)
    (directory / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_temporal(directory, WIDTH)
    (directory / "config.json").write_text('{"width": 0}')
    with pytest.raises(ExportError, match="width"):
        load_temporal(directory, WIDTH)


def flips_between_two_scenes() -> tuple[list[Seen], Vocabulary]:
    """Two scenes under noise; one of the labels and two of the answers go with the scene."""
    rng = np.random.default_rng(7)
    text = np.linalg.qr(rng.normal(size=(WIDTH, len(LABELS))))[0].T.astype(np.float32)
    seen = []
    for _ in range(12):
        second = np.repeat(rng.integers(0, 2, size=8), 10)
        pooled = rng.normal(0.0, 0.12, (80, WIDTH)) + np.where(second[:, None], text[0], text[1])
        present = np.zeros((80, len(LABELS)), np.bool_)
        present[:, 0], present[:, 1] = second == 1, second == 0
        truths = np.zeros((80, len(QUESTIONS)), np.int64)
        truths[:, :2] = second[:, None]
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        seen.append(Seen(10.0, pooled.astype(np.float32), present, truths))
    count = len(LABELS)
    half = np.full(count, 0.5, np.float32)
    scales, biases = np.full(count, 15.0, np.float32), np.full(count, -6.0, np.float32)
    return seen, Vocabulary(1, LABELS, text, half, half, scales, biases, exclusive=False)


def test_training_teaches_events_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen, vocabulary = flips_between_two_scenes()
    recipe = replace(RECIPE, schedule=Schedule(steps=200, batch=8, peak_rate=2e-3))
    objective = fit_module(seen, vocabulary, recipe, tmp_path / "whole")
    one = seen[0]
    pooled = torch.from_numpy(one.pooled)[None]
    times = torch.arange(80)[None] / one.hz
    with torch.no_grad():
        state, event = objective.module.attend(pooled, pooled, ages_within(times, 32))
    drift = 1.0 - event[0, 5:] @ event[0, 5:].T
    second = torch.from_numpy(one.truths[5:, 0])
    differs = second[:, None] != second[None, :]
    assert drift[differs].mean() > 4 * drift[~differs].mean()
    centre = torch.from_numpy(np.where(one.truths[:, :1] == 1, *vocabulary.embeddings[:2, None]))
    raw = (pooled[0] * centre).sum(dim=1).mean()
    assert (state[0] * centre).sum(dim=1).mean() > raw, "the state must be less noisy"
    # Broken off in the middle, the same path is taken.
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    stopped = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    assert stopped["step"] == 200
    assert len(log) == 10
    resumed = fit_module(seen, vocabulary, recipe, tmp_path / "whole")
    for name, weight in objective.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight)
    finished = objective.finished()
    directory = save_temporal(finished, tmp_path / "temporal")
    unit = yaml.safe_load((directory / "config.json").read_text())["drift_unit"]
    assert unit == pytest.approx(float(objective.log_temperature.exp()), abs=1e-3)
    assert {str(w.dtype) for w in load_file(directory / "model.safetensors").values()} == {
        "torch.float16"
    }


def test_readouts_learn_the_questions() -> None:
    seen, _ = flips_between_two_scenes()
    fitted = fit_readouts(module(), seen)
    pooled = torch.from_numpy(seen[0].pooled)[None]
    times = torch.arange(80)[None] / seen[0].hz
    state, event = fitted.attend(pooled, pooled, ages_within(times, fitted.config.slots))
    names, sizes = list(QUESTIONS), fitted.config.choices
    for name, part in zip(names, fitted.evidence(state, event)[0].split(sizes, -1), strict=True):
        right = part.argmax(dim=-1).numpy() == seen[0].truths[:, names.index(name)]
        assert right[5:].mean() > 0.95, name
    assert fit_readouts(fitted, seen).config == fitted.config
