# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A judge on an OpenAI-compatible server: many questions, a few at a time, each until answered.

Unlike the robot's connection it has time: it waits longer before it asks again, and leaves no
question out because others failed before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from vlm_perception.evaluation.judge.rubric import LENGTH
from vlm_perception.perception.served.completions import Request
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import LASTING, RETRIED, Fault, ServedError
from vlm_perception.perception.served.server_info import ServerInfo, ask_server
from vlm_perception.perception.served.transport import Transport

AT_ONCE = 4
"""Questions that the server has at a time."""
RETRIES = 3
BACKOFF_S = 0.5
"""Before the first retry; doubled before each further one."""
LONGEST_PAUSE_S = 60.0
"""However long the server asks to be left alone."""
ANSWER_S = 300.0
"""For one answer, or what the server says of itself."""
LONGEST_ANSWER = 50_000
"""Characters."""
AGAIN = RETRIED | {Fault.SERVER, Fault.CUT, Fault.UNREACHABLE}
"""May pass within moments."""
ENDS = LASTING | {Fault.REFUSED, Fault.NAME, Fault.UNREACHABLE, Fault.UNAVAILABLE}
"""No further question would be answered either."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Reply:
    """What came of a question."""

    text: str
    """As the server sent it."""
    failure: str = ""
    """Why there is no whole answer; empty: there is one."""


class JudgeServer:
    """A model on a server that answers questions."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect to nothing yet."""
        self._endpoint = endpoint

    def check(self) -> ServerInfo:
        """Find out whether the model is there.

        Raises:
            ServedError: it is not, or nothing answers.
        """

        async def ask() -> ServerInfo:
            transport = Transport(self._endpoint, slots=1)
            try:
                return await self._in_time(ask_server(transport, self._endpoint))
            finally:
                await transport.close()

        return asyncio.run(ask())

    def ask(
        self, questions: Iterator[tuple[str, Request]], keep: Callable[[str, Reply], None]
    ) -> None:
        """Ask all questions; each is taken when it is its turn.

        Args:
            questions: by their names.
            keep: is given each name with what came of it, as soon as that is known.

        Raises:
            ServedError: no further question would be answered; the answers so far have been kept.
        """
        asyncio.run(self._ask_all(questions, keep))

    async def _ask_all(
        self, questions: Iterator[tuple[str, Request]], keep: Callable[[str, Reply], None]
    ) -> None:
        transport = Transport(self._endpoint, slots=AT_ONCE)

        async def work() -> None:
            for name, request in questions:
                keep(name, await self._ask(transport, request))

        workers = [asyncio.ensure_future(work()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await transport.close()

    async def _ask(self, transport: Transport, request: Request) -> Reply:
        for attempt in itertools.count():
            text: list[str] = []
            try:
                finish = await self._in_time(_receive(transport, request, text))
            except ServedError as error:
                if error.fault in AGAIN and attempt < RETRIES:
                    asked_s = min(error.wait_s or 0.0, LONGEST_PAUSE_S)
                    await asyncio.sleep(max(BACKOFF_S * 2**attempt, asked_s))
                    continue
                if error.fault in ENDS:
                    raise
                return Reply("".join(text), str(error))
            cut = "the answer was cut off at the limit of tokens" if finish == LENGTH else ""
            return Reply("".join(text), cut)
        raise AssertionError

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        try:
            return await asyncio.wait_for(work, ANSWER_S)
        except asyncio.TimeoutError:
            raise ServedError(
                Fault.SLOW,
                f"{self._endpoint.url} did not answer within {ANSWER_S:g} s; see its log, or use a "
                "faster server",
            ) from None


async def _receive(transport: Transport, request: Request, text: list[str]) -> str:
    """Add the pieces of an answer; returns why it ended."""
    finish, length = "", 0
    async for delta in transport.complete(request):
        length += len(delta.text)
        if length > LONGEST_ANSWER:
            raise ServedError(
                Fault.ENDLESS, f"the answer has more than {LONGEST_ANSWER} characters"
            )
        text.append(delta.text)
        finish = delta.finish or finish
    return finish
