# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an analysis costs is measured once a machine, and an automatic limit leaves it the time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.perception.reasoning import language_service
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.replay.virtual_time import GraphCost, LatencyModel, PacedBundle, VirtualClock
from vlm_perception.types import Frame

TOKENS = 12
SLOW = LatencyModel(
    graphs={"projector": GraphCost(run=200.0), "decoder": GraphCost(run=100.0, token=1.0)}
)


def service(
    bundle: ModelBundle, model: LatencyModel = SLOW, limit_s: float = 0.0
) -> LanguageService:
    """One on a virtual clock, which only the model's costs move."""
    clock = VirtualClock()
    settings = ReasonerSettings(max_caption_tokens=TOKENS, max_caption_s=limit_s)
    return LanguageService(PacedBundle.of(bundle, clock, model), settings, clock=clock)


def endless(bundle: ModelBundle) -> ModelBundle:
    """The same bundle with an end of texts that it never writes."""
    assert bundle.manifest.language is not None
    spec = bundle.manifest.language.model_copy(update={"stop_token_ids": (0,)})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"language": spec}))


def test_each_part_of_an_analysis_is_measured(siglip_bundle: ModelBundle) -> None:
    cost = service(siglip_bundle).measure()
    # The token and the run for each; a prefill reads many tokens, and the projector runs first.
    assert cost.token_s == pytest.approx(0.101)
    assert 0.101 < cost.prompt_s < 0.13
    assert cost.prefill_s > 0.3 and cost.questions_s > cost.token_s
    assert cost.caption_s(TOKENS) == pytest.approx(cost.prompt_s + 11 * 0.101)


def test_an_automatic_limit_leaves_a_slow_model_its_whole_caption(
    siglip_bundle: ModelBundle,
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    seen = VisionEncoder(siglip_bundle).encode(Frame(image, 10**9, "camera"), 0)
    bundle = endless(siglip_bundle)
    automatic, cut, free = (service(bundle, limit_s=limit) for limit in (0.0, 0.3, 100.0))
    cost = automatic.measure()
    assert automatic.max_caption_s == pytest.approx(3 * cost.caption_s(TOKENS), abs=1e-3)
    cut.measure()
    assert cut.max_caption_s == 0.3, "what is given is left alone"
    whole = free.analyse(seen, "", 0).caption
    assert automatic.analyse(seen, "", 0).caption == whole
    short = cut.analyse(seen, "", 0).caption
    assert len(short) < len(whole) and short.endswith(UNFINISHED)


def test_a_fast_model_has_a_second_as_ever() -> None:
    fast = service(ModelBundle.load("roadworld-nano"), LatencyModel())
    fast.measure()
    assert fast.max_caption_s == 1.0


def test_a_machine_measures_a_bundle_once(
    siglip_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(language_service, "UNDISTURBED", 0.0)
    file = tmp_path / "vlm_perception" / language_service.COSTS
    first = service(siglip_bundle)
    cost = first.measure_once()
    (entry,) = json.loads(file.read_text())
    assert entry["question"]["bundle"] == siglip_bundle.digest
    assert entry["question"]["engine"] == first.engine_name
    # Another pace would be measured as another cost.
    again = service(siglip_bundle, LatencyModel())
    assert again.measure_once() == cost
    assert again.max_caption_s == first.max_caption_s
    monkeypatch.setattr(language_service, "cpu_model", lambda: "another processor")
    assert service(siglip_bundle, LatencyModel()).measure_once().token_s < cost.token_s
    assert len(json.loads(file.read_text())) == 2


def test_what_others_disturbed_is_measured_again_at_the_next_start(
    siglip_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(language_service, "UNDISTURBED", 1e9)
    slow = service(siglip_bundle).measure_once()
    assert service(siglip_bundle, LatencyModel()).measure_once().token_s < slow.token_s
    assert not (tmp_path / "vlm_perception" / language_service.COSTS).exists()


@given(prompt=st.floats(0.0, 5.0), token=st.floats(0.0, 2.0), seconds=st.floats(0.0, 60.0))
def test_the_longest_caption_within_a_time_takes_no_longer(
    prompt: float, token: float, seconds: float
) -> None:
    cost = AnalysisCost(question={}, prefill_s=0, questions_s=0, prompt_s=prompt, token_s=token)
    fitting = cost.tokens_within(seconds, most=40)
    assert 0 <= fitting <= 40
    assert not fitting or cost.caption_s(fitting) <= seconds + 1e-6
    assert fitting == 40 or cost.caption_s(fitting + 1) > seconds - 1e-6
