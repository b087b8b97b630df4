# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Why a file yields no images, judging by its first bytes: the true reason, and a remedy."""

from __future__ import annotations

import re
from pathlib import Path

KINDS_READ = "a video (mp4, mkv, avi and the like), an image, or a folder of images"
SNIFFED = 4096
LARGEST_INDEX = 64 * 1024 * 1024

PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
    b"PK\x03\x04": "unzip",
}
"""What files that are packed begin with, and what unpacks them."""
RECORDINGS = {
    b"SQLite format 3\x00": "a rosbag2 file (sqlite3)",
    b"\x89MCAP0\r\n": "a rosbag2 file (mcap)",
    b"#ROSBAG V2.0": "a ROS 1 bag",
}
VIDEOS = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"OggS": "Ogg",
    b"FLV\x01": "Flash",
    b"\x00\x00\x01\xba": "MPEG",
    b"\x00\x00\x01\xb3": "MPEG",
    b"\x47\x40": "MPEG transport stream",
    b"GIF8": "GIF",
    b"\x30\x26\xb2\x75": "Windows Media",
}


def lists_its_images(path: Path) -> bool:
    """Whether files of this kind list each image, so that missing ones can be counted."""
    return _video(_head(path)) in ("MP4", "AVI")


def why_no_video(path: Path) -> str:
    """Why OpenCV reads no image from a file."""
    head = _head(path)
    if not head:
        return f"{path} is empty; give {KINDS_READ}"
    for start, command in PACKED.items():
        if head.startswith(start):
            return f"{path} is compressed: unpack it with `{command}` and give the result"
    for start, what in RECORDINGS.items():
        if head.startswith(start):
            return f"{path} is {what}; `vlm-perception replay` reads it if it is named as such"
    video = _video(head)
    if video == "MP4" and _movie_box(path) is None:
        return (
            f"{path} was cut off: it has no index (moov), without which no image can be found; "
            "record or copy it again"
        )
    if video:
        return (
            f"{path} is {video}, but no image of it can be decoded: it is damaged, contains only "
            f"sound, or this OpenCV lacks its codec; `ffmpeg -i {path.name} -c:v mjpeg clip.avi` "
            "makes one that plays"
        )
    what = "text" if _is_text(head) else "of an unknown type"
    return f"{path} is not a video but {what}; give {KINDS_READ}"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SNIFFED)
    except OSError:
        return b""


def _video(head: bytes) -> str:
    """The container's name; empty for what is no video."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "MP4"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "AVI"
    return next((name for start, name in VIDEOS.items() if head.startswith(start)), "")


def edited_s(path: Path) -> float | None:
    """Length of what an MP4 file shows, given by an edit list (ISO 14496-12, 8.6.6)."""
    if _video(_head(path)) != "MP4":
        return None
    movie = _movie_box(path) or b""
    header = movie.find(b"mvhd")
    if header < 0:
        return None
    scale_at = header + (24 if movie[header + 4] else 16)
    scale = int.from_bytes(movie[scale_at : scale_at + 4], "big")
    lengths = [_edits(movie, found.start()) for found in re.finditer(b"elst", movie)]
    return max(lengths) / scale if lengths and scale and max(lengths) else None


def _edits(movie: bytes, at: int) -> int:
    """The sum of the durations in one edit list, in the time scale of the film."""
    wide, count = movie[at + 4], int.from_bytes(movie[at + 8 : at + 12], "big")
    size, step = (8, 20) if wide else (4, 12)
    begins = range(at + 12, min(at + 12 + count * step, len(movie)), step)
    return sum(int.from_bytes(movie[begin : begin + size], "big") for begin in begins)


def _movie_box(path: Path) -> bytes | None:
    """The box of an MP4 file that locates its images (ISO 14496-12, 4.2); None: none."""
    position, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while position + 8 <= end:
            file.seek(position)
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if size == 1:
                size = int.from_bytes(header[8:16], "big")
            if header[4:8] in (b"moov", b"moof"):
                file.seek(position)
                return file.read(min(size, LARGEST_INDEX))
            if size < 8:
                return None
            position += size
    return None


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    # A character may be cut at the end.
    return "\ufffd" not in head.decode("utf-8", errors="replace")[:-4]
