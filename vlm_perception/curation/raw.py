# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""00_raw: every image of the sources, brought to what training reads, with where it is from."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_perception.curation.durable import write_bytes
from vlm_perception.curation.image_files import (
    MOST_BYTES,
    READ,
    UsableImage,
    encoded,
    read_file,
    usable_image,
)
from vlm_perception.curation.tasks import Position, Record
from vlm_perception.evaluation.folder_images import FolderImagesError, plain_name
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.jpeg import START as JPEG_START
from vlm_perception.messages.rosbags import message_types
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.image_messages import COMPRESSED_IMAGE
from vlm_perception.replay.recordings.source import (
    VIDEO_START_NS,
    BagSource,
    CameraFrame,
    Source,
    Span,
    open_source,
)

IMAGES = "images"
FOREVER = 1 << 62
"""More than any recording has frames, or any tar samples."""
MOST_TEXT = 1 << 20
"""Bytes of a caption's file in a tar."""

Found = Iterator[tuple[Record, Position]]


def do_raw(task: dict[str, Any], folder: Path, position: Position) -> Found:
    """Do a task of the stage; see `tasks.Work`."""
    kind = {"files": _files, "tar": _tar, "recording": _recording}[task["kind"]]
    for record, after in kind(task, folder / "stage", position):
        known = {"source": task["source"], **record}
        if record["status"] == "kept" and task["licence"]:
            known.setdefault("licence", task["licence"])
        yield known, after


def _files(task: dict[str, Any], stage: Path, position: Position) -> Found:
    root, begin = Path(task["root"]), position or 0
    for place, item in enumerate(task["items"][begin:], begin + 1):
        if "reason" in item:
            yield _failed(item["path"], item["reason"]), place
            continue
        try:
            name = plain_name(item["path"])
            image = usable_image(read_file(root / name, root))
        except (ImageError, FolderImagesError) as error:
            yield _failed(item["path"], error), place
            continue
        yield _kept(stage, image, item), place


def _recording(task: dict[str, Any], stage: Path, position: Position) -> Found:
    """Of each interval of the rate the first frame that can be read."""
    path, rate_hz = Path(task["path"]), task["rate_hz"]
    first_ns, interval, skip = position or (None, -1, 0)
    try:
        source = open_source(path, task["topic"])
        for frame in source.frames(Span(), skip):
            first_ns = frame.time_ns if first_ns is None else first_ns
            here = int((frame.time_ns - first_ns) * rate_hz / 1e9 + 1e-6)
            after = (first_ns, max(here, interval), frame.index + 1)
            place = f"{path.name}#{frame.index}"
            if frame.pixels is None:
                yield _failed(place, frame.fault_text), (first_ns, interval, frame.index + 1)
            elif here > interval:
                interval = here
                image = _of_frame(frame, source.type_name)
                yield _kept(stage, image, _of_recording(path, place, frame, source)), after
        lost = source.losses
    except ReplayError as error:
        lost = [str(error)]
    for sentence in lost:
        yield _failed(path.name, sentence), (first_ns, interval, FOREVER)


def _of_recording(path: Path, place: str, frame: CameraFrame, source: Source) -> Record:
    known = {"path": place, "recording": path.name}
    if isinstance(source, BagSource):
        return {**known, "camera": source.topic, "stamp_ns": frame.stamp_ns}
    return {**known, "time_s": round((frame.stamp_ns - VIDEO_START_NS) / 1e9, 6)}


def _of_frame(frame: CameraFrame, kind: str) -> UsableImage:
    """A frame's own JPEG file where it has one."""
    if kind == COMPRESSED_IMAGE:
        message: Any = message_types().deserialize_cdr(frame.message, COMPRESSED_IMAGE)
        file = bytes(message.data)
        if file.startswith(JPEG_START):
            return usable_image(file)
    assert frame.pixels is not None
    return encoded(frame.pixels, ("written as JPEG",))


def _tar(task: dict[str, Any], stage: Path, position: Position) -> Found:
    """The samples of a tar: neighbouring files whose names are the same up to the first dot."""
    path, begin = Path(task["path"]), position or 0
    try:
        with tarfile.open(path, "r|*") as tar:
            for place, (key, parts) in enumerate(_samples(tar), 1):
                if place > begin:
                    yield _sample(stage, path.name, key, parts, task["language"]), place
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield _failed(path.name, f"the tar cannot be read to its end: {error}"), FOREVER


Parts = dict[str, bytes | str]
"""By suffix: what a sample holds, or why it is left out."""


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, Parts]]:
    current, parts = "", Parts()
    for member in tar:
        if not member.isfile():
            continue
        name = PurePosixPath(member.name)
        stem, _, suffix = name.name.partition(".")
        key, suffix = str(name.with_name(stem)) if stem else member.name, f".{suffix.lower()}"
        if key != current and parts:
            yield current, parts
            parts = Parts()
        current = key
        most = MOST_BYTES if suffix in READ else MOST_TEXT
        if suffix in READ or suffix in (".txt", ".json"):
            stream = tar.extractfile(member)
            whole = member.size <= most and stream is not None
            parts[suffix] = stream.read() if whole and stream else f"it has more than {most} bytes"
    if parts:
        yield current, parts


def _sample(stage: Path, tar: str, key: str, parts: Parts, language: str) -> Record:
    suffix = next((each for each in parts if each in READ), "")
    place = f"{tar}/{key}{suffix}"
    file = parts.get(suffix, "it has no image")
    try:
        if isinstance(file, str):
            raise ImageError("no_image", file)
        known = {"path": place, "recording": tar, **_told(parts, language)}
        return _kept(stage, usable_image(file), known)
    except ImageError as error:
        return _failed(place, error)


def _told(parts: Parts, language: str) -> Record:
    """Captions and licence of a sample; what is no text or JSON says nothing."""
    text, told = parts.get(".txt", b""), parts.get(".json", b"{}")
    known: Record = {}
    try:
        content = json.loads(told)
    except (ValueError, RecursionError):
        content = {}
    if not isinstance(content, dict):
        content = {}
    caption = text.decode("utf-8", "replace") if isinstance(text, bytes) else ""
    caption = caption.strip() or str(content.get("caption") or "").strip()
    if caption:
        known["captions"] = [{"text": caption, "language": language}]
    licence = content.get("license") or content.get("licence")
    if isinstance(licence, str):
        known["licence"] = licence
    return known


def _failed(path: str, reason: object) -> Record:
    return {"status": "failed", "path": path, "reason": str(reason)}


def _kept(stage: Path, image: UsableImage, known: Record) -> Record:
    """Store an image under its digest: the same image is stored once."""
    digest = hashlib.sha256(image.file).hexdigest()
    name = f"{IMAGES}/{digest[:2]}/{digest}{image.suffix}"
    if not (stage / name).exists():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(stage / name, image.file)
    stamp = {} if image.stamp_ns is None else {"stamp_ns": image.stamp_ns}
    return {
        "status": "kept",
        **stamp,
        **known,
        "file": name,
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        "changed": list(image.changed),
    }
