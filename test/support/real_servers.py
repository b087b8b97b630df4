# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Real OpenAI-compatible servers for tests, each in an environment of its own.

An environment sees the packages of .venv; it is made the first time, in some seconds, and kept in
the user's cache.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from support.places import ROOT, SUPPORT

from vlm_perception.common.machine import cache_directory
from vlm_perception.perception.served.completions import Request

FOR_TRANSFORMERS = ("accelerate", "fastapi", "openai", "starlette", "uvicorn")
FOR_LLAMA = ("gguf==0.19.0", "xllamacpp==2026.10.11549")
START_S = 120.0
TRANSFORMERS = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests
from transformers.cli.transformers import main
main()
"""

LONG_S = 60.0
KEY = "sk-tEst0123456789"
QUESTION = "describe the unmistakable scene"


class CannotServeError(Exception):
    """There can be no such server here; the message says why."""


@dataclass
class RealServer:
    """A running server, in a process group of its own."""

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path
    _stream: IO[bytes] = field(repr=False)

    def close(self) -> None:
        """End it, also while it is stopped."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._stream.close()


def ask(max_tokens: int = 40, question: str = QUESTION) -> Request:
    """A question about a grey image."""
    _, jpeg = cv2.imencode(".jpg", np.full((180, 320, 3), 90, np.uint8))
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    return Request([{"role": "user", "content": content}], max_tokens=max_tokens)


def start_student(folder: Path, *, port: int = 0) -> RealServer:
    """The shipped student behind `transformers serve`.

    Args:
        folder: for its log and for transformers' cache.
        port: of this machine; 0 for a free one.

    Raises:
        CannotServeError: its environment cannot be made.
    """
    port = port or _free_port()
    model = str(ROOT / "checkpoints" / "roadworld-nano" / "vlm")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    return _start(transformers_serve(model, *options), folder, port, model)


def transformers_serve(model: str, *options: str) -> list[str | Path]:
    """The command that serves a model; it ends with the process that starts it.

    Raises:
        CannotServeError: its environment cannot be made.
    """
    for name in ("torch", "transformers"):
        if find_spec(name) is None:
            raise CannotServeError(f"{name} is not installed; make test does it")
    return [_environment(FOR_TRANSFORMERS), "-c", TRANSFORMERS, "serve", model, *options]


def start_llama(folder: Path) -> RealServer:
    """llama.cpp's server with a small LLaVA of random weights.

    Args:
        folder: for its log and for the model.

    Raises:
        CannotServeError: its environment cannot be made.
    """
    port, model = _free_port(), "random-llama"
    script = SUPPORT / "llama_server.py"
    command = [_environment(FOR_LLAMA), script, folder / "random.gguf", model, str(port)]
    return _start(command, folder, port, model)


def _start(command: Sequence[str | Path], folder: Path, port: int, model: str) -> RealServer:
    log = folder / f"server-{port}.log"
    stream = log.open("wb")
    process = subprocess.Popen(
        command,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "HF_HOME": str(folder / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        cwd=folder,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = RealServer(f"http://127.0.0.1:{port}/v1", model, process, log, stream)
    deadline = time.monotonic() + START_S
    while not _is_healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            server.close()
            raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)
    return server


def _environment(packages: tuple[str, ...]) -> Path:
    """The Python of an environment, which the first process to ask for it makes."""
    constraints = Path(sys.prefix) / "constraints.txt"
    parts = [sys.prefix, sys.version, *packages, constraints.read_text()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    place = cache_directory() / "tests" / f"server-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            _make_environment(place, packages, constraints)
            (place / "made").touch()
    return place / "bin" / "python"


def _make_environment(place: Path, packages: tuple[str, ...], constraints: Path) -> None:
    venv.create(place, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = place / "lib" / version / "site-packages"
    (own / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet"]  # .venv's pip
    done = subprocess.run(
        [*pip, "--constraint", constraints, *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise CannotServeError(f"{', '.join(packages)} cannot be installed: {reason}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=1.0) as answer:
            healthy: bool = answer.status == 200
            return healthy
    except OSError:
        return False
