# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The connection to a served model: one event loop in a thread of its own, for all callers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_perception.common.duration_histogram import Durations
from vlm_perception.perception.served.circuit import Circuit
from vlm_perception.perception.served.completions import Delta, Request, TokenLogprobs
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import RETRIED, Fault, ServedError
from vlm_perception.perception.served.stream import Exchange, Outcome, Phase, Stream

if TYPE_CHECKING:
    from vlm_perception.perception.served.idle import IdleWatch
    from vlm_perception.perception.served.server_info import ServerInfo
    from vlm_perception.perception.served.transport import Transport

__all__ = ["Connection", "Delta", "Request", "ServedError", "TokenLogprobs"]

RETRIES = 3
BACKOFF_S = 0.1
"""Before the first retry; doubled before each further one."""
SHORTEST_STOP_S, LONGEST_STOP_S = 0.05, 2.0
CLOSING_S = 0.8

Result = TypeVar("Result")


class Check:
    """A question to the server about itself. Closing it, from any thread, ends it at once."""

    def __init__(
        self, future: concurrent.futures.Future[ServerInfo], timeout_s: float, where: str
    ) -> None:
        """Wait for a future, for messages at an address."""
        self._future, self._timeout_s, self._where = future, timeout_s, where

    def result(self) -> ServerInfo:
        """What the server says.

        Raises:
            ServedError: it does not serve the model, is not ready, is no such server, says nothing
                in time, or this was closed.
        """
        try:
            return self._future.result(self._timeout_s)
        except concurrent.futures.TimeoutError:
            self.close()
            raise ServedError(
                Fault.SILENT,
                f"{self._where} said nothing about itself within {self._timeout_s:g} s; see the "
                "server's log, or restart it",
            ) from None
        except concurrent.futures.CancelledError:
            raise ServedError(
                Fault.CLOSED,
                f"{self._where} was no longer asked what it is; ask it again",
            ) from None

    def close(self) -> None:
        """Wait no longer."""
        self._future.cancel()


class Connection:
    """Asks one served model, from any thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        slots: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            endpoint: the model.
            slots: the most requests that the server may have at a time.
            clock: monotonic seconds.

        Raises:
            ServedError: the HTTP client is not installed.
        """
        self.endpoint = endpoint
        self._clock = clock
        self._circuit = Circuit(clock)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "failed", "cancelled", "retries"), 0)
        self._first_token = Durations()
        self._transport: Transport = _import("transport").Transport(endpoint, slots=slots)
        self._idle: IdleWatch = _import("idle").IdleWatch(self._transport, endpoint.url)
        self._slots = asyncio.Semaphore(slots)
        self._stuck: ServedError | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)
        self._thread.start()

    def check(self, timeout_s: float) -> Check:
        """Begin to ask the server what it is, and whether it serves the model.

        Raises:
            ServedError: this connection has been closed.
        """
        ask_server = _import("server_info").ask_server

        async def ask() -> ServerInfo:
            async with self._slots:
                info: ServerInfo = await ask_server(self._transport, self.endpoint)
                return info

        return Check(self._submit(ask()), timeout_s, self.endpoint.url)

    def stream(self, request: Request, *, budget_s: float, total_s: float | None = None) -> Stream:
        """Ask the model; the answer comes in pieces.

        Args:
            request: what is asked.
            budget_s: each piece, the first included, comes within this time of the one before.
            total_s: the answer is whole within this time; None: however long it takes.

        Raises:
            ServedError: while the circuit is open; else the stream raises it.
        """
        if self._closed:
            raise _closed()
        exchange = Exchange(
            request,
            self.endpoint.url,
            budget_s=budget_s,
            total_s=total_s,
            trial=self._circuit.admit(),
            clock=self._clock,
        )
        exchange.on_end = self._note
        exchange.ahead = lambda: self._stuck
        self._count("requests")
        exchange.task = self._submit(self._serve(exchange))
        return Stream(exchange)

    def issue(self) -> str:
        """Why the server is left alone at the moment, in one sentence; empty while it is asked."""
        return self._circuit.issue

    def admits(self) -> bool:
        """Whether a request would be sent: the circuit is closed, or a trial is due."""
        return self._circuit.admits

    def figures(self) -> Mapping[str, str]:
        """Counts since the start, and how long first tokens took."""
        with self._lock:
            shown = {name: str(count) for name, count in self._counts.items()}
            if self._first_token.count:
                for percent in (50, 95):
                    value = 1e3 * self._first_token.percentile(percent)
                    shown[f"first_token_p{percent}_ms"] = f"{value:.0f}"
        return {**shown, "circuit": "open" if self._circuit.issue else "closed"}

    def close(self) -> None:
        """End all requests, connections and the thread; within a second."""
        if self._closed:
            return
        self._closed = True
        future = self._submit(self._shut())
        concurrent.futures.wait([future], CLOSING_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0 - CLOSING_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # The loop has been closed meanwhile.
            work.close()
            raise _closed() from None

    async def _serve(self, exchange: Exchange) -> None:
        """Hold a slot until the server is done with a request, or is taken to be."""
        try:
            async with self._slots:
                try:
                    await self._ask(exchange)
                finally:
                    if exchange.is_left_behind and not self._closed:
                        await self._wait_for_idle(exchange)
        except asyncio.CancelledError:
            exchange.end(Outcome.FAILED, _closed())
            raise

    async def _wait_for_idle(self, exchange: Exchange) -> None:
        self._stuck = exchange.failure
        try:
            await self._idle.wait(self._time_to_stop_s(exchange))
        finally:
            self._stuck = None

    async def _ask(self, exchange: Exchange) -> None:
        """Ask, and again where that may help; what comes goes into the exchange."""
        try:
            for attempt in itertools.count():
                exchange.advance(Phase.CONNECTING)
                try:
                    await self._receive(exchange)
                    return
                except ServedError as error:
                    pause_s = self._pause_s(exchange, error, attempt)
                    if pause_s is None:
                        raise
                self._count("retries")
                await asyncio.sleep(pause_s)
        except Exception as error:
            exchange.end(Outcome.FAILED, error)

    async def _receive(self, exchange: Exchange) -> None:
        def progress(answering: bool) -> None:
            exchange.advance(Phase.ANSWERED if answering else Phase.SENT)

        try:
            async for delta in self._transport.complete(exchange.request, progress):
                exchange.put(delta)
        except ServedError:
            if exchange.phase is Phase.SENT:
                exchange.advance(Phase.REFUSED)
            raise
        exchange.advance(Phase.COMPLETE)
        exchange.end(Outcome.DONE, None)

    def _time_to_stop_s(self, exchange: Exchange) -> float:
        """How long a server that does not tell may still be at work on a request.

        Servers look between two tokens whether somebody still waits for them.
        """
        with self._lock:
            usual_s = self._first_token.percentile(95)
        return min(max(exchange.until_next_token_s(usual_s), SHORTEST_STOP_S), LONGEST_STOP_S)

    def _pause_s(self, exchange: Exchange, error: ServedError, attempt: int) -> float | None:
        """How long to wait before asking again; None where that makes no sense."""
        if error.fault not in RETRIED or attempt >= RETRIES or exchange.first_s is not None:
            return None
        if error.fault is Fault.RATE and error.wait_s is None:
            return None
        pause_s = max(BACKOFF_S * 2**attempt, error.wait_s or 0.0)
        return pause_s if pause_s < exchange.left_s() else None

    def _note(self, exchange: Exchange, outcome: Outcome, error: BaseException | None) -> None:
        """Count how a request ended."""
        if exchange.first_s is not None and exchange.sent_s is not None:
            with self._lock:
                self._first_token.add(exchange.first_s - exchange.sent_s)
        if outcome is Outcome.DONE:
            self._circuit.succeeded()
        elif outcome is Outcome.CANCELLED:
            self._count("cancelled")
            if exchange.first_s is None:
                self._circuit.abandoned(trial=exchange.trial)
            else:
                self._circuit.succeeded()
        else:
            self._count("failed")
            if isinstance(error, ServedError):
                self._circuit.failed(error, trial=exchange.trial)
            else:
                self._circuit.abandoned(trial=exchange.trial)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._transport.close()


def _closed() -> ServedError:
    return ServedError(Fault.CLOSED, "the connection to the served model has been closed")


def _import(name: str) -> Any:
    """The modules that know HTTP are imported only where a model is served."""
    try:
        return import_module(f"vlm_perception.perception.served.{name}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("vlm_perception"):
            raise
        raise ServedError(
            Fault.MISSING,
            f"a served model needs the package {error.name}; run: pip install httpx2",
        ) from None
