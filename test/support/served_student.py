# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped student behind `transformers serve`: a real OpenAI-compatible server.

The server's packages lie in an environment of their own in the user's cache, which sees those of
.venv; it is made the first time, in some seconds.
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
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from support.places import ROOT

from vlm_perception.common.machine import cache_directory
from vlm_perception.perception.served.completions import Request

PACKAGES = ("accelerate", "fastapi", "openai", "starlette", "uvicorn")
START_S = 120.0
SERVE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests
from transformers.cli.transformers import main
sys.argv[0] = "transformers"
main()
"""


LONG_S = 60.0
KEY = "sk-tEst0123456789"
QUESTION = "describe the unmistakable scene"


class CannotServeError(Exception):
    """There can be no such server here; the message says why."""


@dataclass
class ServedStudent:
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


def start_student(folder: Path, *, port: int = 0) -> ServedStudent:
    """Start the server and wait until it answers.

    Args:
        folder: for its log and for transformers' cache.
        port: of this machine; 0 for a free one.

    Raises:
        CannotServeError: its environment cannot be made.
    """
    python = _environment()
    port = port or _free_port()
    model = str(ROOT / "checkpoints" / "roadworld-nano" / "vlm")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = folder / f"transformers-serve-{port}.log"
    stream = log.open("wb")
    process = subprocess.Popen(
        [python, "-c", SERVE, "serve", model, *options],
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
    student = ServedStudent(f"http://127.0.0.1:{port}/v1", model, process, log, stream)
    deadline = time.monotonic() + START_S
    while not _is_healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            student.close()
            raise AssertionError(f"transformers serve did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)
    return student


def _environment() -> Path:
    """The Python of the server's environment, which the first process to ask for it makes."""
    for name in ("torch", "transformers"):
        if find_spec(name) is None:
            raise CannotServeError(f"{name} is not installed; make setup does it with --train")
    constraints = Path(sys.prefix) / "constraints.txt"
    parts = [sys.prefix, sys.version, *PACKAGES, constraints.read_text()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    place = cache_directory() / "tests" / f"serving-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "serving.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            _make_environment(place, constraints)
            (place / "made").touch()
    return place / "bin" / "python"


def _make_environment(place: Path, constraints: Path) -> None:
    venv.create(place, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "lib" / version / "site-packages"
    (packages / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--constraint", constraints, *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        reason = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise CannotServeError(f"the packages of transformers serve cannot be installed: {reason}")


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
