# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Who does the tasks: this process, or the workers of Ray Data."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import cv2

from vlm_perception.common.errors import RunError, VlmPerceptionError
from vlm_perception.curation.recipe import CurationError

OBJECT_STORE_BYTES = 80 << 20
"""Ray's least: images travel by the disk and not through it."""
MOST_BLOCKS = 1000
CONNECT_S = 10.0
DONE, FAILED, REFUSED = "done", "failed", "refused"


@dataclass(frozen=True)
class Engine:
    """Where the work is done; the results do not depend on it. A context manager."""

    workers: int = 1
    """1: this process alone."""
    ray_address: str | None = None
    """Of a Ray cluster that is there; its machines see the same files under the same paths."""
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def uses_ray(self) -> bool:
        """Whether Ray is needed."""
        return self.workers > 1 or self.ray_address is not None

    def done(
        self, do: Callable[[int], dict[str, int]], numbers: Sequence[int]
    ) -> Iterator[dict[str, int]]:
        """Call a function for each number, in any order; gives what it returns, as it is done.

        Raises:
            CurationError: Ray is not installed, there is no cluster at the address, or a worker
                cannot use what it was given.
            RunError: a worker failed.
        """
        if not numbers:
            return
        if not self.uses_ray:
            yield from map(do, numbers)
            return
        data = self._ray_data()
        rows = [{"number": number} for number in numbers]
        dataset = data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
        # Ray sets the level itself when its first data set is made.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for row in dataset.map(_Row(do)).iter_rows():
            yield _counts(*json.loads(row["answer"]))

    def __enter__(self) -> Engine:
        """Ray is started when there is something for it to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End Ray, where it was started."""
        self._stack.close()

    def _ray_data(self) -> Any:
        """Ray Data; Ray is started without dashboard and telemetry."""
        if self.ray_address is not None:
            _require_answer(self.ray_address)
        if find_spec("ray") is None:
            raise CurationError(
                "more than one worker needs Ray, which is not installed: `pip install "
                "'ray[data]'`, or use --workers 1"
            )
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # noqa: PLC0415 - only where it is used
        import ray.data  # noqa: PLC0415

        if ray.is_initialized():
            return ray.data
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vlm_"))
        own = {
            "num_cpus": self.workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": scratch,
        }
        there = {"address": self.ray_address}
        self._stack.callback(ray.shutdown)
        try:
            ray.init(
                **(there if self.ray_address else own),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise CurationError(f"Ray cannot be started: {error}") from error
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray.data


def _require_answer(address: str) -> None:
    """Refuse an address where nothing answers, on which Ray itself would wait for minutes.

    Raises:
        CurationError: nothing does, or it is no address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise CurationError(
            f"no Ray cluster answers at {address!r} ({error}); give HOST:PORT as `ray start "
            "--head` prints it"
        ) from error


class _Row:
    """The function, as Ray Data calls it.

    Errors that are meant for people are data, too: Ray would wrap them in its own with a trace.
    """

    def __init__(self, do: Callable[[int], dict[str, int]]) -> None:
        self._do = do

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        cv2.setNumThreads(1)
        # As text: Ray would give each row the keys of all others.
        return {"answer": json.dumps(self._answer(int(row["number"])))}

    def _answer(self, number: int) -> tuple[str, Any]:
        try:
            return DONE, self._do(number)
        except (RunError, OSError) as error:
            return FAILED, str(error)
        except VlmPerceptionError as error:
            return REFUSED, str(error)


def _counts(kind: str, content: Any) -> dict[str, int]:
    """What a worker counted.

    Raises:
        RunError: it failed.
        CurationError: it cannot use what it was given.
    """
    if kind == FAILED:
        raise RunError(content)
    if kind == REFUSED:
        raise CurationError(content)
    return dict(content)
