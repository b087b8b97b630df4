# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a server can do for typed questions, found out by what its answers hold.

Servers ignore a field of a request that they do not know, and say nothing about it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.served.letters import lettered
from vlm_perception.perception.language.served.sent_image import data_url, message
from vlm_perception.perception.served.completions import Delta, Request, TokenLogprobs
from vlm_perception.perception.served.errors import Fault, ServedError

ALTERNATIVES = 20
"""As many as servers give of a token at most."""
NEEDLE = "zebra-7419"
"""An answer that no image suggests: who gives it was guided to it."""
HAYSTACK = "Describe the image."
PROBE = QuestionSpec(
    name="probe", question="Which letter comes first in the alphabet?", choices=("A", "B")
)
CACHED_SHARE = 0.7
"""A prompt that is repeated must have its first token after this share of the time at most."""
ROUNDS = 3

Ask = Callable[[Request], Generator[Delta, None, None]]
"""Puts a request to a server; gives the pieces of its answer."""


@dataclass(frozen=True)
class Abilities:
    """What a server can do."""

    log_probabilities: bool
    """Whether it gives the likeliest alternatives of a token."""
    guided: bool
    """Whether it keeps an answer to a JSON schema."""
    cold_s: float
    """Seconds to the first token of a prompt with an image that it sees for the first time."""
    warm_s: float
    """The same when the prompt is repeated."""
    fingerprint: str = ""
    """Digest of what the server says of itself and the model; empty: it was not asked."""

    @property
    def prefix_cache(self) -> bool:
        """Whether it keeps what it has read of an image."""
        return self.warm_s <= CACHED_SHARE * self.cold_s

    @property
    def kind(self) -> tuple[object, ...]:
        """What tells servers apart: all but how fast they were."""
        return self.fingerprint, self.log_probabilities, self.guided, self.prefix_cache

    @property
    def letters(self) -> bool:
        """Whether each question is worth a request, for the probabilities of its choices."""
        return self.log_probabilities and self.prefix_cache

    def figures(self) -> Mapping[str, str]:
        """What the diagnostics show."""
        return {
            "server": self.fingerprint,
            "answers": "letters" if self.letters else "one JSON object",
            "log_probabilities": str(self.log_probabilities).lower(),
            "guided_answers": str(self.guided).lower(),
            "prefix_cache": f"{str(self.prefix_cache).lower()}: first token after "
            f"{1e3 * self.warm_s:.0f} ms, of a new image after {1e3 * self.cold_s:.0f} ms",
        }


def find_abilities(
    ask: Ask,
    *,
    size: int,
    quality: int,
    frames: int,
    clock: Callable[[], float] = time.monotonic,
) -> Abilities:
    """Ask a server a few things whose answers show what it can do.

    Args:
        ask: the server.
        size: longer side of the images that it will be sent, in pixels.
        quality: of their JPEGs, 1 to 100.
        frames: how many of them a request holds.
        clock: seconds.

    Raises:
        ServedError: it does not answer, or takes no images.
    """

    def first(content: Mapping[str, Any]) -> float:
        """Seconds to the first piece; the rest is read, or the server might still be at it."""
        began, came = clock(), None
        for _ in ask(Request(messages=[content], max_tokens=1)):
            came = clock() if came is None else came
        return (clock() if came is None else came) - began

    # What no field that it may not know can be blamed for.
    _whole(ask, Request(messages=[message(_noise(size, quality, frames), HAYSTACK)], max_tokens=1))
    images = _noise(size, quality, frames)
    lettered_probe = message(images, lettered(PROBE))
    letters = _if_taken(
        ask, Request(messages=[lettered_probe], max_tokens=1, top_logprobs=ALTERNATIVES)
    )
    schema = _enum("answer", NEEDLE)
    guided = _if_taken(
        ask, Request(messages=[message(images, HAYSTACK)], max_tokens=24, schema=schema)
    )
    cold, warm = [], []
    for _ in range(ROUNDS):
        prompt = message(_noise(size, quality, frames), HAYSTACK)
        cold.append(first(prompt))
        warm.append(first(prompt))
    return Abilities(
        log_probabilities=any(len(each.top) > 1 for each in letters[1]),
        guided=_holds_needle(guided[0]),
        cold_s=median(cold),
        warm_s=median(warm),
    )


def _if_taken(ask: Ask, request: Request) -> tuple[str, list[TokenLogprobs]]:
    """As `_whole`; nothing where the server refuses the request for a field that it lacks."""
    try:
        return _whole(ask, request)
    except ServedError as error:
        if error.fault is not Fault.REQUEST:
            raise
        return "", []


def _whole(ask: Ask, request: Request) -> tuple[str, list[TokenLogprobs]]:
    """An answer's text and tokens."""
    deltas = list(ask(request))
    tokens = [token for delta in deltas for token in delta.logprobs]
    return "".join(delta.text for delta in deltas), tokens


def _holds_needle(text: str) -> bool:
    try:
        return bool(json.loads(text) == {"answer": NEEDLE})
    except (ValueError, RecursionError):
        return False


def _enum(name: str, value: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"enum": [value]}},
        "required": [name],
        "additionalProperties": False,
    }


def _noise(size: int, quality: int, frames: int) -> list[str]:
    """Images that no server has seen before, in the shape of a camera's."""
    shape = frames, max(1, size * 9 // 16 // 16), max(1, size // 16), 3
    coarse = np.frombuffer(os.urandom(int(np.prod(shape))), np.uint8).reshape(shape)
    block = np.ones((16, 16, 1), np.uint8)
    return [data_url(np.kron(each, block), size, quality) for each in coarse]
