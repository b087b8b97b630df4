# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Play the camera of a recording with /clock, for machines without `ros2 bag play`.

As that does: images at their recording times, /clock at a fixed rate, which runs during the delay,
too, and jumps back to the beginning after it and with each loop.

Usage: python -m vlm_perception.rosgraph.bag_player BAG [--rate R] [--delay S] [--loop] ...
"""

from __future__ import annotations

import argparse
import importlib
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock

from vlm_perception.replay.recordings.source import Source, Span, open_source

CLOCK_QOS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


class BagTime:
    """The time of a recording, which passes at a rate and can be set."""

    def __init__(self, start_ns: int, rate: float) -> None:
        """Begin at the recording's first image."""
        self._rate = rate
        self._lock = threading.Lock()
        self.jump(start_ns)

    def jump(self, time_ns: int) -> None:
        """Go on from another time."""
        with self._lock:
            self._from_ns, self._since_s = time_ns, time.monotonic()

    def now_ns(self) -> int:
        """The recording's time now."""
        with self._lock:
            return self._from_ns + round((time.monotonic() - self._since_s) * self._rate * 1e9)

    def sleep_until(self, time_ns: int) -> None:
        """Return when that time has come."""
        time.sleep(max(0.0, (time_ns - self.now_ns()) * 1e-9 / self._rate))


def play(node: Any, source: Source, options: argparse.Namespace) -> None:
    """Play to the end, or for ever."""
    first = next(source.frames(Span()), None)
    if first is None:
        return
    kind = source.type_name.rsplit("/", 1)[-1]
    message_class = getattr(importlib.import_module("sensor_msgs.msg"), kind)
    images = node.create_publisher(message_class, source.topic, 10)
    bag_time, over = BagTime(first.time_ns, options.rate), threading.Event()
    ticking = threading.Thread(target=_tick, args=(node, bag_time, options.clock, over))
    ticking.start()
    try:
        for _ in iter(lambda: options.loop, False) if options.loop else range(1):
            time.sleep(options.delay)
            bag_time.jump(first.time_ns)
            for frame in source.frames(Span()):
                bag_time.sleep_until(frame.time_ns)
                if frame.message:
                    images.publish(frame.message)
    finally:
        over.set()
        ticking.join()


def _tick(node: Any, bag_time: BagTime, rate_hz: float, over: threading.Event) -> None:
    clocks = node.create_publisher(Clock, "/clock", CLOCK_QOS)
    while not over.wait(1.0 / rate_hz):
        seconds, nanoseconds = divmod(bag_time.now_ns(), 1_000_000_000)
        message = Clock()
        message.clock.sec, message.clock.nanosec = seconds, nanoseconds
        clocks.publish(message)


def main(arguments: list[str] | None = None) -> None:
    """Play a recording until it ends or a signal comes."""
    parser = argparse.ArgumentParser(prog="bag_player")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topic")
    parser.add_argument("--clock", type=float, default=100.0, help="Hz")
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each round")
    parser.add_argument("--loop", action="store_true")
    options = parser.parse_args(arguments)
    source = open_source(options.bag, options.topic)
    rclpy.init()
    node = rclpy.create_node("bag_player")
    try:
        play(node, source, options)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
