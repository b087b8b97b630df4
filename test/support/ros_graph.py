# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Real node processes on a DDS domain of their own, and a node of the test's to talk to them."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from support.places import CONFIG

PROFILE = CONFIG / "fastdds.xml"
os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(PROFILE))
TIMEOUT_S = 20.0
ASK_EVERY_S = 6.0
BEST_EFFORT = QoSProfile(depth=20, reliability=QoSReliabilityPolicy.BEST_EFFORT)


DOMAINS = 100
_GRAPHS = itertools.count(os.getpid())
_HELD: dict[int, IO[str]] = {}
"""A locked file for each domain that is taken."""


def free_domain() -> int:
    """A DDS domain that nobody else has: no graph, no other run, and no node that one left behind.

    A lock ends with the last process that has it.
    """
    folder = Path(tempfile.gettempdir(), f"vlm_perception_domains.{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for _ in range(DOMAINS):
        domain = 1 + next(_GRAPHS) % DOMAINS
        file = (folder / str(domain)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _HELD[domain] = file
        return domain
    raise AssertionError(f"all {DOMAINS} DDS domains are taken; see who holds {folder}")


def wait_until(what: str, condition: Callable[[], Any], timeout: float = TIMEOUT_S) -> Any:
    """Wait for a true value and return it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout} s in vain: {what}")


class NodeProcess:
    """A node of the package in a process of its own."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        folder: Path,
        domain: int,
        runner: Sequence[str] = (),
    ) -> None:
        self.name = name
        folder.mkdir(exist_ok=True)
        self._log = folder / f"{name}.{time.monotonic_ns()}.log"
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "ROS_LOG_DIR": str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", *runner, f"vlm_perception.nodes.{name}"),
                    *("--ros-args", *arguments),
                ],
                cwd=folder,  # not the sources, which lack the messages
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[_HELD[domain].fileno()],
            )

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the node by a signal as a user would; one that hangs does not end with code 0."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(TIMEOUT_S)
        assert code == 0, f"{self.name} ended with {code}:\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        return self._process.poll() is None


class Inbox:
    """What came on a topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._lock = threading.Lock()
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        with self._lock:
            self._messages.append(message)

    def all(self) -> list[Any]:
        with self._lock:
            return list(self._messages)

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()

    def wait(
        self, wanted: Callable[[Any], bool] = lambda _: True, timeout: float = TIMEOUT_S
    ) -> Any:
        """Return the first message that is wanted."""
        return wait_until(
            f"a message on {self._topic}; came {len(self.all())}",
            lambda: next((message for message in self.all() if wanted(message)), None),
            timeout,
        )


class Graph:
    """A DDS domain with the processes under test and one node of the test's."""

    def __init__(self, folder: Path, domain: int) -> None:
        self._folder = folder
        self.domain = domain
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._processes: list[NodeProcess] = []
        self._diagnostics = self.listen(DiagnosticArray, "/diagnostics", 10)

    def start(
        self,
        name: str,
        *remaps: str,
        runner: Sequence[str] = (),
        flags: Sequence[str] = (),
        **parameters: Any,
    ) -> NodeProcess:
        """Start a node with these parameters and remappings.

        A runner is a module that runs it; flags are further arguments after --ros-args.
        """
        arguments = list(flags)
        for parameter, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["-p", f"{parameter}:={text}"]
        for remap in remaps:
            arguments += ["-r", remap]
        process = NodeProcess(name, arguments, self._folder, self.domain, runner)
        self._processes.append(process)
        return process

    def listen(self, message_type: type, topic: str, qos: Any = BEST_EFFORT) -> Inbox:
        inbox = Inbox(topic)
        self.node.create_subscription(message_type, topic, inbox.put, qos)
        return inbox

    def publisher(self, message_type: type, topic: str, qos: Any = 10) -> Any:
        """Make a publisher and wait until somebody listens."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        wait_until(f"a subscriber of {topic}", lambda: publisher.get_subscription_count() > 0)
        return publisher

    def call(self, service_type: Any, name: str, request: Any, timeout: float = TIMEOUT_S) -> Any:
        client = self.node.create_client(service_type, name)
        try:
            return _first_answer(client, name, request, timeout)
        finally:
            self.node.destroy_client(client)

    def known_client(self, service_type: Any, name: str, request: Any, depth: int) -> Any:
        """Make a client that has an answer already, so that the next ones reach it, too."""
        client = self.node.create_client(service_type, name, qos_profile=QoSProfile(depth=depth))
        _first_answer(client, name, request, TIMEOUT_S)
        return client

    def status(self, name: str, part: str = "pipeline") -> Any | None:
        """Return the newest diagnostic status of a part of a node."""
        return next(
            (
                status
                for message in reversed(self._diagnostics.all())
                for status in message.status
                if status.name == f"{name}: {part}"
            ),
            None,
        )

    def values(self, name: str) -> Mapping[str, str]:
        """Return the newest diagnostic values of a node."""
        status = self.status(name)
        return {} if status is None else {item.key: item.value for item in status.values}

    def wait_active(self, name: str) -> None:
        wait_until(f"{name} to be active", lambda: self.values(name).get("state") == "active")

    def wait_error(self, name: str) -> str:
        """Wait until a node reports an error and return its sentence."""
        status = wait_until(
            f"an error of {name}",
            lambda: (s := self.status(name)) and s.level == DiagnosticStatus.ERROR and s,
        )
        return str(status.message)

    def set_parameter(self, node: str, name: str, value: Any) -> Any:
        """Set a parameter as `ros2 param set` does and return the result."""
        from rcl_interfaces.srv import SetParameters  # noqa: PLC0415

        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        return self.call(SetParameters, f"/{node}/set_parameters", request).results[0]

    def transition(self, node: str, label: str, timeout: float = TIMEOUT_S) -> bool:
        """Ask for a transition as `ros2 lifecycle set` does."""
        from lifecycle_msgs.srv import ChangeState  # noqa: PLC0415

        request = ChangeState.Request()
        request.transition.label = label
        name = f"/{node}/change_state"
        return bool(self.call(ChangeState, name, request, timeout).success)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        # A context that ends while an executor waits in it takes the process with it now and then.
        self._stop.set()
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        # A domain that the caller chose is not held.
        held = _HELD.pop(self.domain, None)
        if held is not None:
            held.close()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=1.0)


def _first_answer(client: Any, name: str, request: Any, timeout: float) -> Any:
    """Ask, and ask again where no answer comes.

    A server that has not discovered a new client within 0.1 s drops its answer (rmw_fastrtps:
    "client will not receive response"), as happens on a busy machine.
    """
    assert client.wait_for_service(timeout), f"no service {name}"
    asked: list[Any] = []
    started = time.monotonic()

    def answered() -> Any:
        if time.monotonic() >= started + len(asked) * ASK_EVERY_S:
            asked.append(client.call_async(request))
        return next((future for future in asked if future.done()), None)

    return wait_until(f"an answer of {name}", answered, timeout).result()
