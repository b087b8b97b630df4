# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a task of lmms-eval wants answers to be written: its `generation_kwargs`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling

MOST_NEW_TOKENS = 1024
"""Where a task names no number, as in lmms-eval's own models."""
NEUTRAL: Mapping[str, float] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "n": 1,
    "best_of": 1,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "length_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "min_p": 0,
    "typical_p": 1,
}
"""Ways of decoding that a bundle has not: the value with which each of them does nothing."""
TAKEN = ("do_sample", "max_gen_toks", "max_new_tokens", "temperature", "top_k", "top_p", "until")


class DecodingError(VlmPerceptionError):
    """A task wants its answers to be written in a way that a bundle cannot."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is written."""

    max_new_tokens: int = MOST_NEW_TOKENS
    until: tuple[str, ...] = ()
    """An answer ends before the first of these texts."""
    sampling: Sampling = GREEDY
    without: tuple[str, ...] = ()
    """Settings that are no matter of decoding, such as how an image is laid out: not followed."""

    @property
    def words(self) -> str:
        """For the report."""
        if self.sampling.temperature == 0.0:
            return "greedy"
        return f"sampled, temperature {self.sampling.temperature:g}, top_p {self.sampling.top_p:g}"


def read_decoding(settings: Mapping[str, Any]) -> Decoding:
    """Understand a task's `generation_kwargs`.

    A task draws at random where its temperature is above 0 and `do_sample` is not false, as
    lmms-eval's own models do; and at temperature 1, as transformers does, where `do_sample` is true
    and it names none. Then with a seed, so that the next run gives the same answers.

    Raises:
        DecodingError: a setting is unknown to a bundle and changes the answers, or has no sense.
    """
    for name, neutral in NEUTRAL.items():
        if settings.get(name) not in (None, neutral):
            raise DecodingError(
                f"{name}={settings[name]!r} is wanted, which a bundle cannot do; give a copy of "
                "the task without it in a folder of your own (--include-path)"
            )
    most = settings.get("max_new_tokens", settings.get("max_gen_toks"))
    most = MOST_NEW_TOKENS if most is None else most
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise DecodingError(f"max_new_tokens={most!r} is wanted, which is no number of tokens")
    return Decoding(
        max_new_tokens=most,
        until=tuple(_stops(settings.get("until"))),
        sampling=_sampling(settings),
        without=tuple(sorted(settings.keys() - NEUTRAL.keys() - set(TAKEN))),
    )


def _stops(until: Any) -> Iterable[str]:
    for stop in [until] if isinstance(until, str) else until or ():
        if stop is None:
            continue
        if not isinstance(stop, str) or not stop:
            raise DecodingError(f"until={until!r} is wanted, which no text can end with")
        yield stop


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    temperature = _number(settings, "temperature", 1.0 if settings.get("do_sample") else 0.0)
    if temperature == 0.0 or settings.get("do_sample") is False or settings.get("top_k") == 1:
        return GREEDY
    if settings.get("top_k"):
        raise DecodingError(
            f"top_k={settings['top_k']!r} is wanted, and a bundle draws by top_p alone; give a "
            "copy of the task without it in a folder of your own (--include-path)"
        )
    top_p = _number(settings, "top_p", 1.0)
    if not 0.0 < top_p <= 1.0:
        raise DecodingError(f"top_p={top_p!r} is wanted, which is no probability above 0")
    return Sampling(temperature, top_p)


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodingError(f"{name}={value!r} is wanted, which is no number")
    if not math.isfinite(value) or value < 0:
        raise DecodingError(f"{name}={value!r} is wanted, which is no number from 0 on")
    return float(value)
