# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The viewer of rerun as a process that hears this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType

from vlm_perception.common.errors import RunError

LOOPBACK = "127.0.0.1"
STARTS_WITHIN_S = 60.0
LIVES_S = 1.0
"""Without a screen it listens for a moment before it ends."""
POLL_S = 0.1
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")
ELSE = "use --web, or --save FILE and look at it elsewhere"


class ViewerError(RunError):
    """The viewer does not start; the text says why."""


class Viewer:
    """The window of rerun, or its page; a context manager that ends it."""

    def __init__(self, web_port: int | None) -> None:
        """Prepare; nothing is started.

        Args:
            web_port: where to serve the page; None: a window is opened.
        """
        port = _free_port()
        self.address = f"rerun+http://{LOOPBACK}:{port}/proxy"
        """Where to send to."""
        self.page = ""
        """Where to look; empty where there is a window."""
        # Left to itself rerun listens on all interfaces.
        self._command = [sys.executable, "-m", "rerun", "--bind", LOOPBACK, "--port", str(port)]
        self._port, self._web_port = port, web_port
        if web_port is not None:
            # No browser is opened: it may not be on this machine.
            self._command += ["--serve-web", "--web-viewer-port", str(web_port)]
            address = self.address.replace("+", "%2B")
            self.page = f"http://{LOOPBACK}:{web_port}/?url={address}"

    def __enter__(self) -> Viewer:
        """Start it and wait until it listens.

        Raises:
            ViewerError: it does not start.
        """
        self._check()
        # The command is a script that starts the viewer: a session of their own ends them together.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()

    def closed(self) -> bool:
        """Whether the user has closed the window.

        Raises:
            ViewerError: it ended by itself.
        """
        code = self._process.poll()
        if code:
            raise ViewerError(f"rerun's viewer exited with {code}, see its message above: {ELSE}")
        return code is not None

    def _check(self) -> None:
        """Refuse what rerun would fail at after a while, with senders that wait for it."""
        if self._web_port is None:
            if not any(os.environ.get(name) for name in SCREENS):
                raise ViewerError(
                    f"there is no screen for a window ({' or '.join(SCREENS)}): {ELSE}"
                )
            return
        with socket.socket() as probe:
            # As a server that comes after another one does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, self._web_port))
            except OSError as error:
                raise ViewerError(
                    f"port {self._web_port} is unavailable ({error.strerror}): give another one "
                    "with --web-port"
                ) from error

    def _wait(self) -> None:
        deadline, listens_s = time.monotonic() + STARTS_WITHIN_S, None
        while listens_s is None or time.monotonic() - listens_s < LIVES_S:
            if self.closed():
                return
            if listens_s is None and _listens(self._port):
                listens_s = time.monotonic()
            if listens_s is None and time.monotonic() > deadline:
                raise ViewerError(
                    f"rerun's viewer did not start within {STARTS_WITHIN_S:.0f} s: is the machine "
                    "very busy?"
                )
            time.sleep(POLL_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
