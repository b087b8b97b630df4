# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Open any source of images by its name."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2

from vlm_perception.media.image_folder import SUFFIXES, ImageFolder
from vlm_perception.media.live_camera import LiveCamera
from vlm_perception.media.media import Media, MediaError
from vlm_perception.media.no_camera import shown
from vlm_perception.media.video_file import VideoFile

GIVE = (
    "give a video file, a folder of images, a webcam's index or device, an address such as "
    "rtsp://HOST/PATH, or roadworld"
)


def is_address(source: str) -> bool:
    """Whether a source is an address and no path."""
    return "://" in source


def open_media(source: str) -> Media:
    """Open a webcam (index or device), a stream, a folder, an image or a video file.

    Raises:
        MediaError: It is missing, empty, busy, refused or unreadable.
    """
    _silence_opencv()
    if source.isdecimal():
        return LiveCamera(source)
    if is_address(source):
        return _address(source)
    if not source.isprintable():
        # OpenCV crashes on names that are not UTF-8.
        raise MediaError(f"the name {source!a} cannot be read; rename it")
    try:
        path = Path(source).expanduser()
    # For an unknown user.
    except RuntimeError as error:
        raise MediaError(f"{source!r} cannot be found ({error}); {GIVE}") from error
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise MediaError(f"{source!r} {_why_no_path(path, error)}; {GIVE}") from error
    if stat.S_ISDIR(mode):
        return ImageFolder(path)
    if stat.S_ISCHR(mode):
        return LiveCamera(str(path))
    if not stat.S_ISREG(mode):
        raise MediaError(f"{source!r} is not a file, folder or camera; {GIVE}")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path} is not readable for you; change its permissions (chmod)")
    if path.suffix.lower() in SUFFIXES:
        return ImageFolder(path)
    return VideoFile(str(path))


def _address(source: str) -> Media:
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise MediaError(f"{shown(source)} is not an address ({error}); {GIVE}") from error
    if parts.scheme == "file":
        return open_media(parts.path)
    # What has a length is a film on a server; a camera has none.
    camera = LiveCamera(source)
    if parts.scheme in ("http", "https") and camera.has_length:
        camera.close()
        return VideoFile(source)
    return camera


def _why_no_path(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return "is a broken symbolic link"
    if isinstance(error, PermissionError):
        return "is in a folder that you may not enter"
    if path.parent == Path("/dev"):
        return "does not exist: connect the camera"
    return "does not exist"


def _silence_opencv() -> None:
    """Keep OpenCV and FFmpeg from logging what MediaError explains better."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging: Any = cv2.utils.logging
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
