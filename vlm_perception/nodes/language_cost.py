# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the measured cost of an analysis means for the parameters of language_reasoner."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.perception.fusion.scene import FusionSettings
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.reasoning.degradation import DESCEND_SHARE, WINDOW_S

WORTH_WRITING = 4
"""A caption of fewer tokens is not proposed."""
SLOWEST_HZ = 0.1
"""The least that `rate_hz` may be."""
SLOW_FRAME_S = 2.0
ROOM = 0.8
"""Share of a limit that a proposal fills: other nodes take cores, too."""


def describe_cost(
    cost: AnalysisCost, settings: LanguageSettings, max_caption_s: float, where: str
) -> str:
    """Say what a full analysis takes, and how long a caption may.

    Args:
        cost: as measured.
        settings: of the node.
        where: it was measured.
        max_caption_s: in force, whoever set it.
    """
    tokens = settings.max_caption_tokens
    looked = f"{_seconds(cost.tower_s)} in its own vision tower, " if cost.tower_s else ""
    read = f"{_seconds(cost.prefill_s)} to read the image, " if cost.prefill_s else ""
    automatic = "" if settings.max_caption_s else ", derived from that"
    caption = _seconds(cost.caption_s(tokens))
    return (
        f"a full analysis takes {_seconds(_analysis(cost, settings, max_caption_s))} {where}: "
        f"{looked}{read}{_seconds(cost.questions_s)} for the questions, {caption} for a caption of "
        f"{tokens} tokens; max_caption_s is {max_caption_s:g}{automatic}"
    )


def unmet_parameters(
    cost: AnalysisCost, settings: LanguageSettings, max_caption_s: float
) -> Iterator[str]:
    """Yield a sentence with a remedy for each parameter that cannot be met at this cost."""
    analysis = _analysis(cost, settings, max_caption_s)
    tokens, rate_hz = settings.max_caption_tokens, settings.rate_hz
    if cost.caption_s(tokens) > max_caption_s:
        fitting = max(1, cost.tokens_within(max_caption_s, tokens))
        yield (
            f"max_caption_s {max_caption_s:g} cuts captions after {fitting} of "
            f"max_caption_tokens {tokens}: set max_caption_s to 0, which derives it from the "
            f"measured cost, or max_caption_tokens to {fitting}"
        )
    stale_after = FusionSettings.stale_after
    if analysis > stale_after:
        yield (
            f"each analysis is {_seconds(analysis)} old when it comes, and scene_fusion calls what "
            f"is older than its stale_after ({stale_after:g} s by default) STALE_REASONING: "
            f"{_fresher(cost, tokens, stale_after)}, or a longer stale_after where answers of that "
            "age are of use"
        )
    # What a key frame takes beyond its tick; one in each `max_keyframe_age`, or one at a time.
    frames = max(1.0, WINDOW_S / max(analysis, settings.max_keyframe_age))
    if frames * (analysis - 1.0 / rate_hz) / WINDOW_S > DESCEND_SHARE:
        yield (
            f"an analysis takes longer than a tick of rate_hz {rate_hz:g}, so that the node will "
            f"save work (degradation level 1 to 3): {_slower(analysis)}"
        )
    if cost.read_s + cost.prompt_s > settings.answer_timeout:
        least = _ceil(2.0 * (cost.read_s + cost.prompt_s))
        yield (
            f"~/ask cannot answer within answer_timeout {settings.answer_timeout:g}: set it to "
            f"{least:g} or more"
        )


def slow_frame(seconds: float) -> str:
    """Say that the frame in hand, or the last one, takes long; empty: it does not."""
    if seconds <= SLOW_FRAME_S:
        return ""
    return (
        f"a frame takes {seconds:.0f} s: the log says what an analysis takes on this machine, and "
        "which parameters that does not fit; if that is less, others take the cores"
    )


def _analysis(cost: AnalysisCost, settings: LanguageSettings, max_caption_s: float) -> float:
    return cost.answers_s + min(cost.caption_s(settings.max_caption_tokens), max_caption_s)


def _fresher(cost: AnalysisCost, tokens: int, stale_after: float) -> str:
    fitting = cost.tokens_within(ROOM * stale_after - cost.answers_s, tokens)
    if fitting >= WORTH_WRITING:
        return f"max_caption_tokens {fitting} keeps them fresh"
    return "fewer questions, more threads or a smaller bundle keep them fresh"


def _slower(analysis: float) -> str:
    if analysis > 1.0 / SLOWEST_HZ:
        return "a smaller max_caption_tokens, fewer questions or a smaller bundle helps"
    return f"rate_hz {_floor(1.0 / analysis):g} leaves it the time"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{1e3 * seconds:.0f} ms"


def _floor(value: float) -> float:
    """Round down to one digit."""
    unit = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / unit) * unit


def _ceil(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / unit) * unit
