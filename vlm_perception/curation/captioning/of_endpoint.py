# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions by a model on an OpenAI-compatible server.

Unlike the robot's connection it leaves no image out because others failed before.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.captioning.writer import ENGLISH, Answer, NoAnswerError
from vlm_perception.curation.recipe import CurationError, EndpointCaptioner
from vlm_perception.perception.language.served.sent_image import data_url, message
from vlm_perception.perception.language.token_sampling import Sampling
from vlm_perception.perception.served.completions import Request
from vlm_perception.perception.served.endpoint import Endpoint, EndpointError
from vlm_perception.perception.served.errors import Fault, ServedError

WRONG = frozenset(
    {Fault.CERTIFICATE, Fault.PEER, Fault.REDIRECT, Fault.KEY, Fault.MODEL, Fault.MISSING}
)
"""No image is captioned before the recipe, the key or the server is corrected."""
ABSENT = frozenset({Fault.REFUSED, Fault.NAME, Fault.UNREACHABLE, Fault.FOREIGN, Fault.CLOSED})
"""No server is there, whatever the image."""
LONGEST_CHARACTERS = 100
"""Of a token; an answer with more of them for each token does not end."""
LENGTH = "length"


class EndpointWriter:
    """See `Writer`."""

    english = ENGLISH

    def __init__(self, spec: EndpointCaptioner, folder: Path, max_tokens: int) -> None:
        """Connect to nothing yet.

        Args:
            spec: of the recipe.
            folder: that of the recipe.
            max_tokens: of an answer.

        Raises:
            CurationError: the address is malformed or not allowed, or the key cannot be used, or
                the HTTP client is not installed.
        """
        key_file = str(folder / Path(spec.key_file).expanduser()) if spec.key_file else ""
        try:
            self._endpoint = Endpoint.parse(
                spec.url,
                spec.model,
                key_file=key_file,
                allow_remote=spec.allow_remote,
                allow_plain_http=spec.allow_plain_http,
            )
            transport = importlib.import_module("vlm_perception.perception.served.transport")
        except EndpointError as error:
            raise CurationError(f"captions.captioner: {error}") from error
        except ModuleNotFoundError as error:
            raise CurationError(
                f"a captioner of kind endpoint needs {error.name}, which is not installed: `pip "
                "install httpx2`"
            ) from error
        self._spec, self._max_tokens = spec, max_tokens
        self._transport = transport.Transport(self._endpoint, slots=spec.slots)
        self.by, self.slots = spec.model, spec.slots
        self.settings: Mapping[str, Any] = {
            "kind": "endpoint",
            "image_size": spec.image_size,
            "jpeg_quality": spec.jpeg_quality,
        }
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="captions", daemon=True).start()

    def check(self, prompt: str) -> None:
        """Nothing: what its model can read, the server knows."""

    def write(self, image: NDArray[np.uint8], prompt: str, sampling: Sampling) -> Answer:
        """Ask the server once."""
        sent = data_url(image, self._spec.image_size, self._spec.jpeg_quality)
        request = Request(
            messages=[message([sent], prompt)],
            max_tokens=self._max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        )
        try:
            return asyncio.run_coroutine_threadsafe(self._ask(request), self._loop).result()
        except ServedError as error:
            if error.fault in WRONG:
                raise CurationError(f"captions.captioner: {error}") from error
            raise NoAnswerError(
                error.fault.value,
                str(error),
                again=error.fault is not Fault.REQUEST,
                absent=error.fault in ABSENT,
                wait_s=error.wait_s or 0.0,
            ) from error
        except CancelledError:
            raise NoAnswerError(
                Fault.CLOSED.value, "the request was ended", again=False, absent=True
            ) from None

    def interrupt(self) -> None:
        """End the requests that are being answered."""

        def cancel() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()

        self._loop.call_soon_threadsafe(cancel)

    async def _ask(self, request: Request) -> Answer:
        limit_s = self._spec.timeout_s
        try:
            return await asyncio.wait_for(self._receive(request), limit_s)
        except asyncio.TimeoutError:
            raise ServedError(
                Fault.SLOW,
                f"{self._endpoint.url} did not answer within {limit_s:g} s; see its log, or raise "
                "timeout_s",
            ) from None

    async def _receive(self, request: Request) -> Answer:
        text, finish = "", ""
        async for delta in self._transport.complete(request):
            text, finish = text + delta.text, delta.finish or finish
            if len(text) > LONGEST_CHARACTERS * self._max_tokens:
                raise ServedError(
                    Fault.ENDLESS, f"{self._endpoint.url} went on after {len(text)} characters"
                )
        return Answer(text, finish != LENGTH)
