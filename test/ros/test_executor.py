# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The executor: each message is taken once, and a slow service keeps nothing waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rclpy
from rclpy.action import ActionClient, ActionServer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.ros_graph import Graph, wait_until

from vlm_perception.action import Describe
from vlm_perception.nodes.process.executor import ServiceThreadsExecutor

MESSAGES = 20


class Counting(ServiceThreadsExecutor):
    """Remembers what it is told to be ready."""

    def __init__(self, context: Context) -> None:
        super().__init__(context=context)
        self.ready: list[type] = []

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        found = super().wait_for_ready_callbacks(*args, **kwargs)
        self.ready.append(type(found[1]))
        return found


class Spinning:
    """A node on the executor under test, which spins in a thread."""

    def __init__(self, domain: int) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("spinning", context=self._context)
        self.executor = Counting(self._context)
        self.executor.add_node(self.node)
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def serve(self, name: str, callback: Any) -> None:
        group = ReentrantCallbackGroup()
        self.node.create_service(Trigger, name, callback, callback_group=group)

    def listen(self, callback: Any) -> None:
        self.node.create_subscription(String, "text", callback, 2 * MESSAGES)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._stop.is_set():
            try:
                self.executor.spin_once(timeout_sec=0.05)
            except ZeroDivisionError as error:
                self.failures.append(error)


@pytest.fixture
def spinning(graph: Graph) -> Iterator[Spinning]:
    spinning = Spinning(graph.domain)
    yield spinning
    spinning.close()


def test_a_message_is_taken_once_however_busy_the_interpreter_is(
    graph: Graph, spinning: Spinning
) -> None:
    received: list[str] = []
    spinning.listen(lambda message: received.append(message.data))
    publisher = graph.publisher(String, "text", 2 * MESSAGES)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for number in range(MESSAGES):
            publisher.publish(String(data=str(number)))
            time.sleep(0.01)
        wait_until("all messages", lambda: len(received) == MESSAGES)
    finally:
        stop.set()
        busy.join()
    assert received == [str(number) for number in range(MESSAGES)]
    assert spinning.executor.ready.count(Subscription) == MESSAGES


def test_messages_and_services_go_on_while_a_service_works(
    graph: Graph, spinning: Spinning
) -> None:
    began, release = threading.Event(), threading.Event()
    received: list[str] = []

    def slow(request: Any, response: Any) -> Any:
        began.set()
        response.success = release.wait(20.0)
        return response

    def quick(request: Any, response: Any) -> Any:
        response.success = True
        return response

    spinning.serve("slow", slow)
    spinning.serve("quick", quick)
    spinning.listen(lambda message: received.append(message.data))
    publisher = graph.publisher(String, "text")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(graph.call, Trigger, "/slow", Trigger.Request())
        assert began.wait(20.0)
        assert graph.call(Trigger, "/quick", Trigger.Request()).success
        publisher.publish(String(data="now"))
        wait_until("the message", lambda: received == ["now"])
        assert not answer.done()
        release.set()
        assert answer.result().success


def test_messages_go_on_while_a_goal_is_worked_on(graph: Graph, spinning: Spinning) -> None:
    began, release = threading.Event(), threading.Event()
    received: list[str] = []

    def work(goal: Any) -> Any:
        began.set()
        result = Describe.Result(success=release.wait(20.0))
        goal.succeed()
        return result

    server = ActionServer(spinning.node, Describe, "work", work)
    spinning.listen(lambda message: received.append(message.data))
    publisher = graph.publisher(String, "text")
    client = ActionClient(graph.node, Describe, "work")
    assert client.wait_for_server(20.0)
    goal = client.send_goal_async(Describe.Goal())
    wait_until("the acceptance", goal.done)
    assert began.wait(20.0)
    publisher.publish(String(data="now"))
    wait_until("the message", lambda: received == ["now"])
    result = goal.result().get_result_async()
    assert not result.done()
    release.set()
    wait_until("the result", result.done)
    assert result.result().result.success
    client.destroy()
    server.destroy()


def test_callbacks_that_fail_are_told_and_end_nothing(
    graph: Graph, spinning: Spinning, capfd: pytest.CaptureFixture[str]
) -> None:
    received: list[float] = []

    def fail(request: Any, response: Any) -> Any:
        raise RuntimeError("out of order")

    spinning.serve("failing", fail)
    spinning.listen(lambda message: received.append(1 / int(message.data)))
    publisher = graph.publisher(String, "text")
    with pytest.raises(AssertionError, match="in vain"):
        graph.call(Trigger, "/failing", Trigger.Request(), timeout=1.0)
    for number in ("0", "4"):
        publisher.publish(String(data=number))
    wait_until("the second number", lambda: received == [0.25])
    assert len(spinning.failures) == 1
    assert "RuntimeError: out of order" in capfd.readouterr().err
