#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A camera for the desk: plays a file, a folder, a camera, a stream or the road world."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image

from vlm_perception.engines.steps import LEAST_S, step
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.media import Media, MediaError, Picture
from vlm_perception.media.open_media import open_media
from vlm_perception.nodes.base.diagnostics import DiagnosticsPublisher, Meter, Report, milliseconds
from vlm_perception.nodes.base.parameters import FIXED, Parameters, TakesWhatItHas, setting
from vlm_perception.nodes.base.throttled_warnings import ThrottledWarnings
from vlm_perception.nodes.io.images.image_subscription import COMPRESSED, RAW
from vlm_perception.nodes.io.qos import overridable, results
from vlm_perception.nodes.process.errors import EndedError, StartError
from vlm_perception.nodes.process.runner import BAD_INPUT, FAILED, run
from vlm_perception.nodes.process.watchdog import Watchdog

ROADWORLD = "roadworld"
AHEAD = 8
"""Images that are decoded ahead of time."""
ROADWORLD_SECONDS = 20.0
CACHE_BYTES = 512 * 1024 * 1024
"""Most that is kept of encoded images which are played again."""
REPORTED_FOR_S = 5.0
"""How long diagnostics show what was wrong with an image."""
RENDERED_SAID_EVERY_S = 3.0
CAMERA_S = 12.0
"""The longest to wait for a camera's image; OpenCV gives up after ten seconds."""


@dataclass(frozen=True)
class SourceSettings:
    """Parameters of video_source."""

    source: str = setting(
        ROADWORLD,
        "What to play: a video file, a folder of images, a webcam's index or device (/dev/video0), "
        "the address of a stream (rtsp://HOST/PATH), or roadworld.",
        change=FIXED,
        number_as_text=True,
    )
    rate_hz: float = setting(
        30.0,
        "Images per second; for a camera or stream, the maximum, as they arrive.",
        minimum=0.1,
        maximum=240.0,
        change=FIXED,
    )
    width: int = setting(
        1280, "Width of the road world in pixels.", minimum=16, maximum=8192, change=FIXED
    )
    height: int = setting(
        720, "Height of the road world in pixels.", minimum=16, maximum=8192, change=FIXED
    )
    transport: str = setting(
        RAW,
        "Publish `image` (raw) or `image/compressed` (JPEG).",
        choices=(RAW, COMPRESSED),
        change=FIXED,
    )
    jpeg_quality: int = setting(
        90, "Quality of the JPEG images.", minimum=1, maximum=100, change=FIXED
    )
    loop: bool = setting(False, "Restart at the end.", change=FIXED)
    frame_id: str = setting(
        "camera_optical_frame", "Frame of the images: an optical one (REP 103).", change=FIXED
    )
    duration_s: float = setting(
        0.0, "End after N seconds; 0: at the end.", minimum=0.0, maximum=1e9, change=FIXED
    )
    seed: int = setting(7, "Seed of the road world.", minimum=0, maximum=2**31, change=FIXED)
    wait_for_subscriber_s: float = setting(
        0.0,
        "Longest wait for subscribers in seconds before the first image.",
        minimum=0.0,
        maximum=3600.0,
        change=FIXED,
    )
    wait_for_subscribers: int = setting(
        1, "Number of subscribers to wait for.", minimum=1, maximum=100, change=FIXED
    )


@dataclass(frozen=True)
class Prepared:
    """The bytes of an image message; nothing is left to do but to stamp it."""

    data: array[int]
    width: int
    height: int
    stamp: Any = None
    """When a camera gave it; None: it is as old as its message."""


class VideoSource(TakesWhatItHas):
    """Publishes prepared images at a fixed rate and ends the process after the last."""

    def __init__(self) -> None:
        """Open the source and begin to play.

        Raises:
            StartError: There is nothing to play, or a parameter is refused.
            EndedError: The process is to end.
        """
        super().__init__("video_source")
        self.exit_code = 0
        settings = Parameters(self, SourceSettings).value
        self._settings = settings
        self._compressed = settings.transport == COMPRESSED
        self._warnings = ThrottledWarnings(self.get_logger())
        self._media = self._open()
        self._published = Meter()
        self._late = 0
        self._stopping = threading.Event()
        # What waits grows old, and a camera does not wait.
        size = 1 if self._media.live else AHEAD
        self._queue: queue.Queue[Prepared | None] = queue.Queue(maxsize=size)
        topic = "image/compressed" if self._compressed else "image"
        self._publisher = self.create_publisher(
            CompressedImage if self._compressed else Image,
            topic,
            # rviz and recorders may request it, and a slow reader delays no one.
            results(1),
            qos_overriding_options=overridable(),
        )
        self._diagnostics = DiagnosticsPublisher(self, self._report)
        self._watchdog = Watchdog(self._tell_of_hang)
        self._threads = [
            threading.Thread(target=self._watched, args=(name, work), name=name, daemon=True)
            for name, work in (("prepare", self._prepare), ("publish", self._play))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop to play."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=0.5)
        self._diagnostics.close()
        self._watchdog.close()

    def _watched(self, name: str, work: Callable[[], None]) -> None:
        with self._watchdog.watch(name):
            work()

    def _open(self) -> Media:
        settings = self._settings
        source = settings.source
        if source == ROADWORLD:
            seconds = settings.duration_s if not settings.loop else 0.0
            source = self._roadworld_clip(seconds or ROADWORLD_SECONDS)
        try:
            return open_media(source)
        except MediaError as error:
            raise StartError(str(error)) from error

    def _roadworld_clip(self, seconds: float) -> str:
        """Path of a rendered clip of the road world; the first call takes its time."""
        from vlm_perception.datasets.roadworld.files.clip import (  # noqa: PLC0415 - heavy
            RenderingStoppedError,
            cached_clip,
        )

        settings = self._settings
        try:
            path = cached_clip(
                settings.width,
                settings.height,
                round(settings.rate_hz),
                seconds,
                settings.seed,
                # What is too long is cut by duration_s.
                or_longer=settings.duration_s > 0 and not settings.loop,
                stopped=lambda: not self.context.ok(),
                report=self._say_rendered,
            )
        except RenderingStoppedError as error:
            raise EndedError(str(error)) from error
        return str(path)

    def _say_rendered(self, done: int, count: int) -> None:
        self.get_logger().info(
            f"rendering the road world, which is then kept: {done} of {count} images",
            throttle_duration_sec=RENDERED_SAID_EVERY_S,
        )

    def _prepare(self) -> None:
        try:
            images, limit = self._images(), CAMERA_S if self._media.live else LEAST_S
            while True:
                with step(f"reading an image of {self._settings.source}", limit):
                    prepared = next(images, None)
                if prepared is None:
                    break
                if not self._hand_over(prepared):
                    return
        except MediaError as error:
            self.get_logger().error(str(error))
            self.exit_code = BAD_INPUT
        except Exception:
            self.get_logger().error(f"cannot continue: {traceback.format_exc()}")
            self.exit_code = FAILED
        self._hand_over(None)

    def _hand_over(self, prepared: Prepared | None) -> bool:
        """Wait for room in the queue; false when the process is ending."""
        while not self._stopping.is_set():
            if self._media.live:
                with suppress(queue.Empty):
                    self._queue.get_nowait()
            try:
                self._queue.put(prepared, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _next(self) -> Prepared | None:
        """Wait for an image; None at the end of the source or of the process."""
        while not self._stopping.is_set() and self.context.ok():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def _images(self) -> Iterator[Prepared]:
        """Prepare each image; what is played again is encoded once."""
        keep = self._settings.loop and self._compressed and not self._media.live
        kept: list[Prepared] = []
        size = 0
        while True:
            before = size
            for picture in self._media.pictures():
                # Unusable images are skipped; the wait for the next one starts over.
                with step("preparing an image"):
                    prepared = self._usable(picture)
                if self._stopping.is_set():
                    return
                if prepared is None:
                    continue
                size += len(prepared.data)
                if keep and size <= CACHE_BYTES:
                    kept.append(prepared)
                yield prepared
            for loss in self._media.losses:
                self._warnings.add("lost", loss)
            if not self._settings.loop:
                return
            if size == before:
                raise MediaError(
                    f"{self._settings.source} no longer delivers images; check the camera or the "
                    "stream"
                )
            while keep and size <= CACHE_BYTES:
                yield from kept

    def _usable(self, picture: Picture) -> Prepared | None:
        """Prepare an image; None, and a warning, if there is none."""
        if picture.fault:
            self._warnings.add(picture.fault, picture.fault_text)
            return None
        try:
            return self._prepared(picture)
        except ImageError as error:
            self._warnings.add(error.kind, f"an image of {self._media.name} is skipped: {error}")
            return None

    def _prepared(self, picture: Picture) -> Prepared:
        stamp = self.get_clock().now().to_msg() if self._media.live else None
        data = array("B")
        if self._compressed:
            data.frombytes(picture.encoded(self._settings.jpeg_quality))
            return Prepared(data, 0, 0, stamp)
        pixels = picture.decoded()
        data.frombytes(pixels.tobytes())
        return Prepared(data, pixels.shape[1], pixels.shape[0], stamp)

    def _play(self) -> None:
        period = 1.0 / self._settings.rate_hz
        self._wait_for_subscriber()
        prepared = self._next()
        due = began = time.monotonic()
        while prepared is not None:
            if self._settings.duration_s and due - began >= self._settings.duration_s - 1e-6:
                break
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            try:
                with step("publishing an image"):
                    self._publisher.publish(self._message(prepared))
            except Exception:
                if self.context.ok():
                    raise
                return
            self._published.add()
            due += period
            if time.monotonic() > due + period:
                # Catching up would publish images faster than the rate.
                self._late += not self._media.live
                due = time.monotonic()
            prepared = self._next()
        if not self._stopping.wait(period) and self.context.ok():
            skipped = sum(self._warnings.counts().values())
            also = f"; {skipped} could not be used or are missing" if skipped else ""
            self.get_logger().info(f"played {self._published.total} images{also}")
        self.context.try_shutdown()

    def _wait_for_subscriber(self) -> None:
        deadline = time.monotonic() + self._settings.wait_for_subscriber_s
        while (
            time.monotonic() < deadline
            and self.context.ok()
            and self._publisher.get_subscription_count() < self._settings.wait_for_subscribers
        ):
            self._stopping.wait(0.02)

    def _message(self, prepared: Prepared) -> Any:
        if self._compressed:
            message = CompressedImage(format="bgr8; jpeg compressed bgr8")
        else:
            message = Image(
                height=prepared.height,
                width=prepared.width,
                encoding="bgr8",
                is_bigendian=0,
                step=prepared.width * 3,
            )
        message.data = prepared.data
        message.header.frame_id = self._settings.frame_id
        message.header.stamp = prepared.stamp or self.get_clock().now().to_msg()
        return message

    def _tell_of_hang(self, sentence: str, new: bool) -> None:
        if not self.context.ok():
            return
        if new:
            self._warnings.add("hangs", sentence, severe=True)
        elif sentence:
            self._warnings.say("hangs", sentence, severe=True)
        self._diagnostics.publish()

    def _report(self) -> Report:
        rate, warnings = f"{self._published.rate():.2f}", self._warnings.counts()
        values = {
            "rate_in_hz": rate,
            "rate_out_hz": rate,
            "latency_p50_ms": milliseconds(None),
            "latency_p95_ms": milliseconds(None),
            "dropped": str(sum(warnings.values()) - warnings.get("hangs", 0)),
            "published": str(self._published.total),
            "late": str(self._late),
            "source": self._media.name,
            "transport": self._settings.transport,
            **{kind: str(count) for kind, count in warnings.items()},
        }
        if hang := self._watchdog.hang:
            return Report(DiagnosticStatus.ERROR, hang, values)
        wrong = self._warnings.recent(REPORTED_FOR_S)
        level = DiagnosticStatus.WARN if wrong else DiagnosticStatus.OK
        return Report(level, wrong or "playing", values)


def main() -> NoReturn:
    """Run the node as a process."""
    run(VideoSource)


if __name__ == "__main__":
    main()
