# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras that are read now: a webcam's index, its device, or the address of a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from vlm_perception.media.media import Media, MediaError, Picture
from vlm_perception.media.no_camera import shown, why_no_device, why_no_stream

OPENED_WITHIN_MS, NEXT_WITHIN_MS = 8000, 5000
"""How long a stream may take to begin, and to its next image."""
OPENED_AGAIN_EVERY_S = 1.0
GIVEN_UP_AFTER_S = 30.0


class LiveCamera(Media):
    """A camera; where it is lost, it is opened again."""

    live = True

    def __init__(self, source: str) -> None:
        """Open the camera and take an image.

        Args:
            source: A webcam's index, the path of its device, or an address such as rtsp://...

        Raises:
            MediaError: It is missing, busy, refuses, or gives no image.
        """
        self._source = source
        self.name = f"webcam {source}" if source.isdecimal() else shown(source)
        self._capture = self._open()

    @property
    def rate_hz(self) -> float | None:
        """As the camera states it; some state none, or nonsense."""
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate if 1.0 <= rate <= 1000.0 else None

    @property
    def has_length(self) -> bool:
        """Whether it is a recording after all."""
        return bool(self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0)

    def close(self) -> None:
        """Let others have the camera."""
        self._capture.release()

    def pictures(self) -> Iterator[Picture]:
        """Yield images as they come; each second without one is a fault.

        Raises:
            MediaError: It was lost and did not come back.
        """
        while True:
            found, image = self._capture.read()
            if found:
                yield Picture(pixels=np.asarray(image, dtype=np.uint8))
            else:
                yield from self._until_it_is_back()

    def _until_it_is_back(self) -> Iterator[Picture]:
        self._capture.release()
        lost_s = time.monotonic()
        why = "it ended"
        while True:
            yield Picture(
                fault="lost", fault_text=f"{self.name} delivers no image ({why}); it is reopened"
            )
            time.sleep(OPENED_AGAIN_EVERY_S)
            try:
                self._capture = self._open()
            except MediaError as error:
                why = str(error)
                if time.monotonic() - lost_s > GIVEN_UP_AFTER_S:
                    raise MediaError(
                        f"{self.name} was lost and did not come back within "
                        f"{GIVEN_UP_AFTER_S:.0f} s: {error}"
                    ) from error
            else:
                return

    def _open(self) -> cv2.VideoCapture:
        capture = self._capture_of()
        if capture.isOpened() and capture.read()[0]:
            return capture
        capture.release()
        if "://" in self._source:
            raise MediaError(why_no_stream(self._source))
        path = f"/dev/video{self._source}" if self._source.isdecimal() else self._source
        raise MediaError(f"it delivers no image: {why_no_device(Path(path))}")

    def _capture_of(self) -> cv2.VideoCapture:
        if "://" in self._source:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPENED_WITHIN_MS]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, NEXT_WITHIN_MS]
            return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)
        if self._source.isdecimal():
            return cv2.VideoCapture(int(self._source))
        # Names such as those in /dev/v4l/by-id are links.
        return cv2.VideoCapture(str(Path(self._source).resolve()), cv2.CAP_V4L2)
