# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Camera images from elsewhere: a video file, a folder of images, a webcam."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CACHE_BYTES = 512 * 1024 * 1024


class MediaError(ValueError):
    """There is nothing to play; the text says why and what to give instead."""


@dataclass(frozen=True)
class Picture:
    """One image, decoded (BGR [height, width, 3]) or as a JPEG file."""

    pixels: NDArray[np.uint8] | None = None
    jpeg: bytes | None = None

    def decoded(self) -> NDArray[np.uint8]:
        """Return the pixels."""
        if self.pixels is not None:
            return self.pixels
        decoded = cv2.imdecode(np.frombuffer(self.jpeg or b"", np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise MediaError("an image of the video is damaged; encode the video again")
        return np.asarray(decoded, dtype=np.uint8)

    def encoded(self, quality: int) -> bytes:
        """Return a JPEG file."""
        if self.jpeg is not None:
            return self.jpeg
        _, file = cv2.imencode(".jpg", self.decoded(), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return bytes(file)


class Media(ABC):
    """Images in order; live ones have no end."""

    live = False
    rate_hz: float | None = None
    """Images a second, where the source itself says so."""

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on."""


class VideoFile(Media):
    """A video that OpenCV reads."""

    def __init__(self, path: Path, *, packets: bool) -> None:
        """Open the file and look at its first image.

        Args:
            path: The file.
            packets: Whether the images of a motion JPEG video may come as they stand in it.

        Raises:
            MediaError: It cannot be read.
        """
        self._path = path
        self._packets = packets and self._is_motion_jpeg()
        self.rate_hz = self._stated_rate()
        if next(self.pictures(), None) is None:
            raise MediaError(
                f"{path} cannot be decoded: it is no video, it is damaged, or this OpenCV lacks "
                "its codec; convert it to H.264 in .mp4"
            )

    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on."""
        capture = cv2.VideoCapture(str(self._path))
        if self._packets:
            capture.set(cv2.CAP_PROP_FORMAT, -1)
        try:
            while True:
                found, image = capture.read()
                if not found:
                    return
                yield _picture(np.asarray(image, dtype=np.uint8), self._packets)
        finally:
            capture.release()

    def _stated_rate(self) -> float | None:
        """Frame rate that the file states; some state none, or nonsense."""
        capture = cv2.VideoCapture(str(self._path))
        try:
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            return rate if 0.1 <= rate <= 1000.0 else None
        finally:
            capture.release()

    def _is_motion_jpeg(self) -> bool:
        """Ask OpenCV for an undecoded image; not every version of it gives one."""
        capture = cv2.VideoCapture(str(self._path))
        try:
            if not capture.isOpened() or not capture.set(cv2.CAP_PROP_FORMAT, -1):
                return False
            found, packet = capture.read()
            start = packet.tobytes()[:2] if found else b""
            return start == b"\xff\xd8" and cv2.imdecode(packet, cv2.IMREAD_COLOR) is not None
        finally:
            capture.release()


def _picture(image: NDArray[np.uint8], is_packet: bool) -> Picture:
    return Picture(jpeg=image.tobytes()) if is_packet else Picture(pixels=image)


class ImageFolder(Media):
    """The images of a folder, by name."""

    def __init__(self, folder: Path) -> None:
        """List the images.

        Raises:
            MediaError: There are none.
        """
        self._files = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not self._files:
            suffixes = ", ".join(sorted(SUFFIXES))
            raise MediaError(f"{folder} holds no images; give a folder with {suffixes}")

    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on."""
        for file in self._files:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise MediaError(f"{file} is no image that OpenCV reads; mend or remove it")
            yield Picture(pixels=np.asarray(image, dtype=np.uint8))


class Webcam(Media):
    """A camera of this machine."""

    live = True

    def __init__(self, index: int) -> None:
        """Open the camera and take an image.

        Raises:
            MediaError: It is missing or busy.
        """
        self._capture = cv2.VideoCapture(index)
        self._index = index
        found = self._capture.isOpened() and self._capture.read()[0]
        if not found:
            self._capture.release()
            device = Path(f"/dev/video{index}")
            busy = "is in use by another program; close that"
            cause = busy if device.exists() else "is not there; connect the camera"
            raise MediaError(f"webcam {index} gives no image: {device} {cause}")

    def pictures(self) -> Iterator[Picture]:
        """Yield images as they come."""
        while True:
            found, image = self._capture.read()
            if not found:
                raise MediaError(f"webcam {self._index} stopped to deliver; connect it again")
            yield Picture(pixels=np.asarray(image, dtype=np.uint8))


def open_media(source: str, *, packets: bool) -> Media:
    """Open a webcam index, a folder or a video file.

    Raises:
        MediaError: It is missing, empty, busy or unreadable.
    """
    _silence_opencv()
    if source.isdecimal():
        return Webcam(int(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise MediaError(
            f"{source!r} does not exist; give a video file, a folder of images, a webcam's index "
            "or roadworld"
        )
    return VideoFile(path, packets=packets)


def _silence_opencv() -> None:
    """Keep OpenCV and FFmpeg from writing of what MediaError says better."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging: Any = cv2.utils.logging
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
