# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the nodes say of a machine that is too slow for a bundle: cause and remedy, each by name."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.nodes.base import networks
from vlm_perception.nodes.encoder_pace import EncoderPace
from vlm_perception.nodes.language_cost import describe_cost, slow_frame, unmet_parameters
from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.perception.language.analysis_cost import AnalysisCost

LONGEST = 600.0


def cost(prefill: float, questions: float, prompt: float, token: float) -> AnalysisCost:
    return AnalysisCost(
        question={}, prefill_s=prefill, questions_s=questions, prompt_s=prompt, token_s=token
    )


NANO = cost(0.005, 0.008, 0.002, 0.001)
SMOLVLM = cost(0.3, 0.4, 0.1, 0.095)
HERE = "on this machine"
DEFAULTS = LanguageSettings()


def unmet(each: AnalysisCost, settings: LanguageSettings = DEFAULTS) -> dict[str, str]:
    """The sentences by the parameter that each is about."""
    limit = settings.max_caption_s or max(1.0, 3 * each.caption_s(settings.max_caption_tokens))
    names = ("max_caption_s", "stale_after", "rate_hz", "answer_timeout")
    return {
        next(name for name in names if name in said): said
        for said in unmet_parameters(each, settings, limit)
    }


def test_of_a_fast_bundle_only_the_cost_is_said() -> None:
    assert describe_cost(NANO, DEFAULTS, 1.0, HERE) == (
        "a full analysis takes 54 ms on this machine: 5 ms to read the image, 8 ms for the "
        "questions, 41 ms for a caption of 40 tokens; max_caption_s is 1, derived from that"
    )
    assert not unmet(NANO)


def test_a_slow_bundle_is_said_to_be_stale_with_what_would_help() -> None:
    said = describe_cost(SMOLVLM, DEFAULTS, 11.4, HERE)
    assert "takes 4.5 s on this machine: 300 ms to read" in said
    assert "3.8 s for a caption of 40 tokens; max_caption_s is 11.4, derived" in said
    found = unmet(SMOLVLM)
    assert found.keys() == {"stale_after", "rate_hz"}
    assert "each analysis is 4.5 s old when it comes" in found["stale_after"]
    assert "fewer questions, more threads or a smaller bundle" in found["stale_after"]
    assert "rate_hz 0.2 leaves it the time" in found["rate_hz"]
    few = unmet(replace_cost(SMOLVLM, prefill_s=0.1, questions_s=0.1))
    assert "max_caption_tokens 6 keeps them fresh" in few["stale_after"]


def test_a_vision_tower_of_its_own_is_part_of_every_analysis() -> None:
    looking = replace_cost(NANO, tower_s=2.4)
    said = describe_cost(looking, DEFAULTS, 1.0, HERE)
    assert "takes 2.5 s on this machine: 2.4 s in its own vision tower, 5 ms to read" in said
    assert unmet(looking).keys() == {"stale_after", "rate_hz", "answer_timeout"}


def replace_cost(each: AnalysisCost, **changes: float) -> AnalysisCost:
    return each.model_copy(update=changes)


def test_a_limit_that_cuts_captions_is_named() -> None:
    said = unmet(SMOLVLM, replace(DEFAULTS, max_caption_s=1.0))["max_caption_s"]
    assert "max_caption_s 1 cuts captions after 10 of max_caption_tokens 40" in said
    assert "set max_caption_s to 0" in said
    assert "max_caption_s is 1" in describe_cost(
        SMOLVLM, replace(DEFAULTS, max_caption_s=1.0), 1.0, HERE
    )


def test_a_question_that_cannot_be_answered_in_time_is_named() -> None:
    said = unmet(replace_cost(SMOLVLM, prefill_s=9.0))["answer_timeout"]
    assert "~/ask cannot answer within answer_timeout 2: set it to 20 or more" in said


@given(
    st.builds(
        cost,
        prefill=st.floats(0.001, 10.0),
        questions=st.floats(0.001, 5.0),
        prompt=st.floats(0.001, 2.0),
        token=st.floats(0.001, 1.0),
    ),
    st.sampled_from([0.0, 0.3, 1.0, 5.0]),
)
def test_who_does_what_is_proposed_is_not_warned_of_it_again(
    each: AnalysisCost, limit_s: float
) -> None:
    settings = replace(DEFAULTS, max_caption_s=limit_s)
    proposals = {
        "max_caption_s": (r"max_caption_tokens to (\d+)", "max_caption_tokens", int),
        "stale_after": (r"max_caption_tokens (\d+) keeps", "max_caption_tokens", int),
        "rate_hz": (r"rate_hz ([\d.]+) leaves", "rate_hz", float),
        "answer_timeout": (r"set it to ([\d.]+)", "answer_timeout", float),
    }
    for about, said in unmet(each, settings).items():
        pattern, name, kind = proposals[about]
        if found := re.search(pattern, said):
            heeded = replace(settings, **{name: kind(found[1])})
            alone = each.caption_s(heeded.max_caption_tokens)
            still = unmet(each, heeded)
            assert about not in still or (about == "max_caption_s" and alone > limit_s > 0), still


def test_a_frame_that_takes_long_is_told_while_it_does() -> None:
    assert not slow_frame(1.9)
    assert "a frame takes 7 s" in slow_frame(7.2)


def pace(alone_s: float, taken_s: float, arrived: int, dropped: int) -> EncoderPace:
    """One that has seen so many images."""
    made = EncoderPace(alone_s)
    for index in range(arrived):
        made.arrive(drops=index < dropped)
    made.encode(taken_s)
    return made


@pytest.mark.parametrize(
    ("alone_s", "taken_s", "cause"),
    [
        (0.4, 0.42, "use more threads, another engine, a smaller bundle or a slower camera"),
        (0.1, 0.42, "and 100 ms at configure: others take the cores"),
    ],
)
def test_an_encoder_that_drops_most_images_says_why(
    alone_s: float, taken_s: float, cause: str
) -> None:
    said = pace(alone_s, taken_s, 30, 28).concern()
    assert "images a second are dropped, since an image takes 420 ms" in said and cause in said


@pytest.mark.parametrize(("arrived", "dropped"), [(30, 0), (30, 15), (9, 8)])
def test_an_encoder_that_drops_few_images_says_nothing(arrived: int, dropped: int) -> None:
    assert not pace(0.03, 0.03, arrived, dropped).concern()


def test_what_was_counted_before_a_restart_is_forgotten() -> None:
    encoder = pace(0.4, 0.4, 30, 28)
    encoder.restart()
    assert not encoder.concern()


def test_the_rate_of_an_encoder_is_said_at_configure() -> None:
    assert "takes 400 ms on this machine: at most 2.5 a second" in EncoderPace(0.4).describe()
    assert not EncoderPace(0.4).too_slow()
    assert "each image is 2.6 s old" in EncoderPace(2.6).too_slow()


class Log:
    """What a node has logged, by level."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.info, self.warning = self.infos.append, self.warnings.append


@pytest.mark.parametrize(("left", "short"), [(10**9, False), (10**8, True)])
def test_the_memory_that_a_bundle_takes_is_said_before_it_does(
    left: int, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "available_memory", lambda: left)
    log = Log()
    networks.tell_memory(ModelBundle.load("roadworld-nano"), 420_000_000, log)
    (said,) = log.warnings if short else log.infos
    assert said.startswith("bundle roadworld-nano will take about 420 MB of memory")
    assert ("has 100 MB left: stop other programs" in said) is short
