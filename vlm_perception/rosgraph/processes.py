# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes as plain processes: start them, notice when one dies, and stop them all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from vlm_perception.common.fastdds_shared_memory import remove_leftovers
from vlm_perception.common.share import share_folder

Parameter = bool | int | float | str | list[str]
STOP_SIGNALS = ((signal.SIGINT, 0.8), (signal.SIGTERM, 0.3), (signal.SIGKILL, 0.5))
"""What is sent to a node that is to stop, and how many seconds it then has."""
COMMON = "parameters.yaml"
LOG_TAIL_LINES = 12
ERROR_LINE = re.compile(r"(\[(ERROR|FATAL)\] \[[^\]]*\] \[[^\]]*\]|cannot start): (?P<text>.+)")
"""As ROS logs an error, and as a node's process reports why it does not start."""


@dataclass(frozen=True)
class NodeSpec:
    """A node to start: its name, which is also its module's, its parameters and remappings."""

    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, Mapping[str, Parameter]] = field(default_factory=dict)
    """Where one process holds several nodes, the parameters of each."""
    namespace: str = ""
    """Without a slash before it; empty: none of its own."""
    runner: tuple[str, ...] = ()
    """Module and arguments that run its module, whose name follows them; empty: nothing."""

    @property
    def title(self) -> str:
        """Its name within the graph."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True)
class Exit:
    """A node that ended on its own."""

    name: str
    code: int
    log_tail: str

    @property
    def error(self) -> str:
        """The last error that it logged, whatever followed it; else its last line."""
        lines = self.log_tail.splitlines() or [""]
        errors = [found["text"] for line in lines if (found := ERROR_LINE.match(line))]
        return errors[-1] if errors else lines[-1]

    def __str__(self) -> str:
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"ended with {self.code}"
        return f"{self.name} {how}; its last lines were:\n{self.log_tail or '(none)'}"


class NodeProcesses:
    """Several nodes, each a process in a session of its own, as a context manager."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any] | None = None) -> None:
        """Prepare; nothing is started.

        Args:
            folder: Where `<title>.log` and `<title>.yaml` (the parameters) are written.
            parameters: Content of a parameter file for all nodes, which is written there, too; that
                of config/perception.yaml when absent.
        """
        self._folder = folder.resolve()
        self._parameters = parameters
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._asked_s: float | None = None

    def __enter__(self) -> NodeProcesses:
        """Make the folder, and delete what earlier, killed processes left in shared memory."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._parameters is not None:
            self._common().write_text(yaml.safe_dump(dict(self._parameters)), encoding="utf-8")
        remove_leftovers()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the nodes."""
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each node, by its title."""
        return {name: process.pid for name, process in self._processes.items()}

    def start(self, spec: NodeSpec) -> None:
        """Start a node; from the main thread only, with whose end the node is killed."""
        self._processes[spec.title] = self._start(spec)

    def kill(self, title: str) -> None:
        """Kill a node as a crash would, and expect it no longer."""
        process = self._processes.pop(title)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def first_exit(self) -> Exit | None:
        """The first node, in starting order, that is no longer running."""
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                return Exit(name, code, self._log_tail(name))
        return None

    def exit_code(self, title: str) -> int | None:
        """How a node has ended; None while it runs."""
        return self._processes[title].poll()

    def ask_to_stop(self) -> None:
        """Send the first signal and return at once: there may be something to do meanwhile."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()
            self._send(STOP_SIGNALS[0][0])

    def stop(self) -> None:
        """Stop every node, politely first, and delete the shared memory of those that were killed.

        Ends at the latest when the times in STOP_SIGNALS are over, counted from the first signal.
        """
        self.ask_to_stop()
        deadline = self._asked_s or time.monotonic()
        for number, seconds in STOP_SIGNALS:
            if number != STOP_SIGNALS[0][0]:
                self._send(number)
            deadline += seconds
            if _wait(self._running(), deadline):
                break
        if self._processes:
            # A node's own children, which have lost their parent.
            for process in self._processes.values():
                _signal_group(process.pid, signal.SIGKILL)
            remove_leftovers()

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes.values() if process.poll() is None]

    def _send(self, number: int) -> None:
        for process in self._running():
            _signal_group(process.pid, number)

    def _start(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        parameters = self._file(spec.title, "yaml")
        # Under the very key of the package's own file: a wider one would lose against it.
        content = {
            # Copies: ROS does not read the alias that YAML has for a list that is there twice.
            f"/**/{node}": {"ros__parameters": deepcopy(dict(parameters))}
            for node, parameters in (spec.holds or {spec.name: spec.parameters}).items()
        }
        parameters.write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [sys.executable, "-m", "vlm_perception.rosgraph.child", str(os.getpid())]
        command += [*spec.runner, f"vlm_perception.nodes.{spec.name}", "--ros-args"]
        for file in (self._common(), parameters):
            command += ["--params-file", str(file)]
        for old, new in spec.remappings.items():
            command += ["-r", f"{old}:={new}"]
        if spec.namespace:
            command += ["-r", f"__ns:=/{spec.namespace}"]
        with self._file(spec.title, "log").open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not the repository: there `vlm_perception` is the sources, without the messages.
                cwd=self._folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def _common(self) -> Path:
        """The parameter file for all nodes."""
        if self._parameters is None:
            return share_folder() / "config" / "perception.yaml"
        return self._folder / COMMON

    def _file(self, title: str, suffix: str) -> Path:
        return self._folder / f"{title.replace('/', '.')}.{suffix}"

    def _log_tail(self, title: str) -> str:
        lines = self._file(title, "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _wait(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> bool:
    """Wait for all to end, and return whether they did in time."""
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True
