# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The server of a language model as a process, which can be killed, stopped and made to fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from vlm_perception.evaluation.chaos.testbed import bundle_server
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, Manner
from vlm_perception.evaluation.chaos.testbed.participant import wait

WELL = Manner(log_probabilities=False)
"""The shipped student answers with values, as it was trained to, and knows no letters."""
ANSWER_S = 2.0
TIME_WAIT = "06"
"""As /proc/net/tcp writes the state of a connection that both sides have ended."""


class ServerProcess:
    """Runs a bundle's language model on one port; a context manager."""

    def __init__(self, bundle: str, folder: Path) -> None:
        """Prepare; nothing is started.

        Args:
            bundle: name or absolute path of the model bundle.
            folder: takes the log.
        """
        self._bundle, self._log = bundle, folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._port: int = listening.getsockname()[1]

    def __enter__(self) -> ServerProcess:
        """The process is started with `start`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.kill()

    @property
    def parameters(self) -> dict[str, str]:
        """What a language node needs to find it."""
        return {
            "language": "served",
            "endpoint": f"http://127.0.0.1:{self._port}/v1",
            "model": MODEL,
        }

    def start(self, within_s: float) -> float | None:
        """Start the process; returns when it answers, and None if it does not in time."""
        command = [sys.executable, "-m", "vlm_perception.rosgraph.child", str(os.getpid())]
        command += [bundle_server.__name__, self._bundle, str(self._port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(WELL))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
                start_new_session=True,
            )
        return time.monotonic() if wait(self._answers, within_s) else None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def behave(self, manner: Manner) -> None:
        """Let it behave so from now on."""
        self._request("PUT", "/manner", json.dumps(asdict(manner)))

    def at_work(self) -> int:
        """How many requests have come and are neither answered nor given up."""
        count: int = self._request("GET", "/health")["active_requests"]
        return count

    def connections(self) -> int:
        """How many sockets of clients refer to the server, by what the system says."""
        count = 0
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            _, _, remote, state = line.split()[:4]
            count += int(remote.rpartition(":")[2], 16) == self._port and state != TIME_WAIT
        return count

    def log(self) -> str:
        """What it has written since it was last started."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _answers(self) -> bool:
        with suppress(OSError, HTTPException):
            return bool(self._request("GET", "/health"))
        return False

    def _request(self, method: str, path: str, body: str | None = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
