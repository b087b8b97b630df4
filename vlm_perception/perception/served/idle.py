# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""When a server has let go of a request that was given up, and can take the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from vlm_perception.perception.served.errors import ServedError
from vlm_perception.perception.served.transport import Transport

POLL_S = 0.03
ANSWER_S = 0.5
"""A server that takes longer to say how busy it is hangs, and is not waited for."""
LONGEST_S = 10.0
"""A server that says for longer that it is at work is asked all the same."""


class IdleWatch:
    """Asks llama.cpp's and Edge-LLM's servers; of others only time tells."""

    def __init__(self, transport: Transport, url: str) -> None:
        """Find out with the first request that is given up whether the server tells."""
        self._transport = transport
        self._root = url.removesuffix("/v1")
        self._ask: Callable[[], Coroutine[Any, Any, bool | None]] | None = None
        self._asked = False

    async def wait(self, otherwise_s: float) -> None:
        """Return when the server is ready for a request.

        Args:
            otherwise_s: how long to wait where it does not tell.
        """
        try:
            if not self._asked:
                await self._find_source()
            if self._ask is None:
                await asyncio.sleep(otherwise_s)
                return
            for _ in range(int(LONGEST_S / POLL_S)):
                if await asyncio.wait_for(self._ask(), ANSWER_S) is not False:
                    return
                await asyncio.sleep(POLL_S)
        except (ServedError, asyncio.TimeoutError):
            return  # The next request meets the same failure, and reports it.

    async def _find_source(self) -> None:
        for source in (self._by_slots, self._by_health):
            if await asyncio.wait_for(source(), ANSWER_S) is not None:
                self._ask = source
                break
        self._asked = True

    async def _by_slots(self) -> bool | None:
        """As llama.cpp: a list of slots, each of them at work or not."""
        content = (await self._transport.get(f"{self._root}/slots")).content
        if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            return None
        states = [each.get("is_processing") for each in content]
        return False in states if states and None not in states else None

    async def _by_health(self) -> bool | None:
        """As Edge-LLM: how many requests it has, and takes at a time."""
        content = (await self._transport.get(f"{self._root}/health")).content
        if not isinstance(content, dict) or not isinstance(content.get("active_requests"), int):
            return None
        able = content.get("capabilities")
        most = able.get("max_num_seqs") if isinstance(able, dict) else None
        queued = content.get("queued_requests", 0)
        return not queued and content["active_requests"] < (most if isinstance(most, int) else 1)
