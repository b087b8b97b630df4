# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP to one server: what httpx2 gives, without what it takes from the environment.

No proxies, no redirects, no compression, bounded answers, and nothing is sent to an address on
another machine that was given as one on this machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from vlm_perception.perception.served.completions import Delta, Request, read_chunk
from vlm_perception.perception.served.endpoint import Endpoint, is_loopback
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.explain import explain_failure, explain_status

LONGEST_EVENT = 1 << 20
"""Bytes of one event of a stream; a token with 20 alternatives takes some 2 kB."""
LONGEST_REPLY = 4 << 20
"""Bytes of an answer that is not a stream, as of the list of a large service's models."""
EVENTS_PER_TOKEN, MORE_EVENTS = 2, 64
"""How many events an answer may have: a token may come in parts, and a server adds some."""
CONNECT_S = 5.0
KEEP_S = 4.0
"""How long an idle connection is kept: less than uvicorn keeps it (5 s), which would race."""
DRAIN_S = 0.5
"""How long the end of a stream is waited for after the last piece of the answer."""
AT_ONCE = 4
"""Connections beside those of the slots, for questions about the server itself."""

Progress = Callable[[bool], None]
"""Called with False when the request has been sent, and with True when the answer begins."""


@dataclass(frozen=True)
class Reply:
    """What a server answered to a question about itself."""

    status: int
    server: str
    """The header `Server`."""
    content: Any
    """Of its JSON; None where it is none."""


class Transport:
    """A pool of connections to one server; to be used within one event loop."""

    def __init__(self, endpoint: Endpoint, *, slots: int) -> None:
        """Connect to nothing yet."""
        _silence_logs()
        headers = {"Accept-Encoding": "identity", "User-Agent": "vlm_perception"}
        if endpoint.key:
            headers["Authorization"] = f"Bearer {endpoint.key}"
        self._endpoint = endpoint
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(
                max_connections=slots + AT_ONCE,
                # On this machine a new connection costs nothing, and none is left behind.
                max_keepalive_connections=None if endpoint.is_remote else 0,
                keepalive_expiry=KEEP_S,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def get(self, url: str) -> Reply:
        """Ask about the server; any status is an answer.

        Raises:
            ServedError: there is no answer, or none that could be one of such a server.
        """
        try:
            return await self._get(url)
        except ServedError as error:
            if error.fault is not Fault.DROPPED:
                raise
        # A server ends an idle connection, as uvicorn after an error, while we take it up again.
        return await self._get(url)

    async def _get(self, url: str) -> Reply:
        try:
            async with self._client.stream("GET", url, extensions=self._watch(None)) as response:
                content = await _read(response)
        except httpx2.HTTPError as error:
            raise explain_failure(error, self._endpoint, answering=False) from None
        if response.is_redirect:
            raise explain_status(response.status_code, response.headers, b"", self._endpoint, [])
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            parsed = None
        return Reply(response.status_code, response.headers.get("server", ""), parsed)

    async def complete(
        self, request: Request, progress: Progress | None = None, *, model: str = ""
    ) -> AsyncIterator[Delta]:
        """Ask a model; the pieces of its answer as they come, up to the one that ends it.

        Args:
            request: what is asked.
            progress: called as the request comes along.
            model: which model; the endpoint's by default.

        Raises:
            ServedError: the answer is not whole, or is none.
        """
        url = f"{self._endpoint.url}/chat/completions"
        model = model or self._endpoint.model
        answering = False
        try:
            async with self._client.stream(
                "POST",
                url,
                json=request.body(model),
                extensions=self._watch(progress),
            ) as response:
                answering = True
                if response.status_code != 200 or not _is_stream(response.headers):
                    content = await _read(response)
                    raise explain_status(
                        response.status_code,
                        response.headers,
                        content,
                        self._endpoint,
                        request.texts(),
                    )
                if progress is not None:
                    progress(True)
                async for delta in self._read_events(response, model, request.max_tokens):
                    yield delta
        except httpx2.HTTPError as error:
            raise explain_failure(error, self._endpoint, answering=answering) from None

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()

    async def _read_events(
        self, response: httpx2.Response, model: str, max_tokens: int
    ) -> AsyncIterator[Delta]:
        where, left = self._endpoint.url, EVENTS_PER_TOKEN * max_tokens + MORE_EVENTS
        events = aiter(httpx2.EventSource(response, max_event_size=LONGEST_EVENT))
        async for event in events:
            left -= 1
            if event.data == "[DONE]":
                break
            if left < 0:
                raise ServedError(
                    Fault.ENDLESS,
                    f"{where} went on after {max_tokens} tokens; it ignores max_tokens, so "
                    "use a server that keeps to it",
                )
            delta = read_chunk(event.data, model, where)
            if delta.text or delta.logprobs or delta.finish:
                yield delta
            if delta.finish:
                await _drain(events)
                return
        raise ServedError(
            Fault.CUT, f"{where} ended the connection within an answer; see the server's log"
        )

    def _watch(self, progress: Progress | None) -> dict[str, Any]:
        """Extensions of a request that check the peer before anything is sent to it."""

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete" and not self._endpoint.is_remote:
                stream = info["return_value"]
                address = stream.get_extra_info("server_addr")[0]
                if not is_loopback(address):
                    await stream.aclose()
                    raise ServedError(
                        Fault.PEER,
                        f"{self._endpoint.url} leads to {address}, which is not this machine; give "
                        "127.0.0.1, or the machine's own name with allow_remote:=true",
                    )
            if event == "http11.send_request_body.complete" and progress is not None:
                progress(False)

        return {"trace": trace}


async def _drain(events: AsyncIterator[Any]) -> None:
    """Read what follows an answer, so that the connection can be used again; wait little for it."""

    async def read() -> None:
        async for _ in events:
            pass

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), DRAIN_S)


async def _read(response: httpx2.Response) -> bytes:
    """The content of an answer; as much of it as may be kept."""
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) > LONGEST_REPLY:
            break
    return bytes(content[:LONGEST_REPLY])


def _is_stream(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and headers.get("content-encoding", "identity") == "identity"


def _silence_logs() -> None:
    """httpx2 logs addresses and httpcore2 headers, where nothing of a request belongs."""
    for name in ("httpx2", "httpcore2"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
