# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""00_raw: every image of the sources, brought to what training reads, with where it is from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_perception.curation.image_files import (
    UsableImage,
    encoded,
    read_file,
    stored_image,
    usable_image,
)
from vlm_perception.curation.sources.key_frames import Triggers, key_frames
from vlm_perception.curation.sources.plain_text import in_plain_text
from vlm_perception.curation.sources.tar_images import tar_images
from vlm_perception.curation.stage_folder import RAW
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

FOREVER = 1 << 62
"""More than any recording has frames."""

Found = Iterator[tuple[Record, Position]]


def do_raw(task: dict[str, Any], folder: Path, position: Position) -> Found:
    """Do a task of the stage; see `tasks.Work`."""
    kind = {"files": _files, "tar": _tar, "recording": _recording}[task["kind"]]
    for record, after in kind(task, folder / "stage", position):
        known = in_plain_text({"source": task["source"], **record})
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
    """Of each interval of the rate the first frame that can be read, or the key frames."""
    path, rate_hz = Path(task["path"]), task["rate_hz"]
    first_ns, interval, skip, told = position or (None, -1, 0, 0)
    try:
        source = _opened(path, task["topic"])
        triggers = _triggers(task, source, stage.parent)
        for frame in _frames(source, path, skip):
            first_ns = frame.time_ns if first_ns is None else first_ns
            here = int((frame.time_ns - first_ns) * rate_hz / 1e9 + 1e-6)
            passed = (first_ns, interval, frame.index + 1, 0)
            place = f"{path.name}#{frame.index}"
            if frame.pixels is None:
                yield _failed(place, frame.fault_text), passed
            elif here > interval if triggers is None else frame.index in triggers:
                try:
                    image = _of_frame(frame, source.type_name)
                except ImageError as error:
                    yield _failed(place, error), passed
                    continue
                interval = here
                known = _of_recording(path, place, frame, source)
                if triggers is not None:
                    known["trigger"] = triggers[frame.index]
                yield _kept(stage, image, known), (first_ns, interval, frame.index + 1, 0)
        lost = source.losses
    except ReplayError as error:
        lost = [str(error)]
    for count, sentence in enumerate(lost[told:], told + 1):
        yield _failed(path.name, sentence), (first_ns, interval, FOREVER, count)


def _triggers(task: dict[str, Any], source: Source, unfinished: Path) -> Triggers | None:
    """The key frames, where they are wanted."""
    if task["key_frames"] is None:
        return None
    path = Path(task["path"])
    about, frames = [task["path"], task["topic"]], _frames(source, path, 0)
    return key_frames(frames, task["key_frames"], task["bundle"], about, unfinished)


def _opened(path: Path, topic: str | None) -> Source:
    try:
        return open_source(path, topic)
    except OSError as error:
        raise ReplayError(f"it cannot be read: {error.strerror or error}") from error


def _frames(source: Source, path: Path, skip: int) -> Iterator[CameraFrame]:
    """The frames; a file that cannot be read is a fault of the recording, not of the set's disk."""
    try:
        yield from source.frames(Span(), skip)
    except OSError as error:
        raise ReplayError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _of_recording(path: Path, place: str, frame: CameraFrame, source: Source) -> Record:
    known = {"path": place, "recording": path.name}
    if isinstance(source, BagSource):
        return {**known, "camera": source.topic, "stamp_ns": frame.stamp_ns}
    return {**known, "time_s": round((frame.stamp_ns - VIDEO_START_NS) / 1e9, 6)}


def _of_frame(frame: CameraFrame, kind: str) -> UsableImage:
    """A frame's own JPEG file where it has one that others can read, too."""
    if kind == COMPRESSED_IMAGE:
        message: Any = message_types().deserialize_cdr(frame.message, COMPRESSED_IMAGE)
        file = bytes(message.data)
        if file.startswith(JPEG_START):
            with suppress(ImageError):
                return usable_image(file)
    assert frame.pixels is not None
    return encoded(frame.pixels, ("written as JPEG",))


def _tar(task: dict[str, Any], stage: Path, position: Position) -> Found:
    path, begin = Path(task["path"]), position or 0
    for place, found in enumerate(tar_images(path, task["language"]), 1):
        if place <= begin:
            continue
        if isinstance(found, str):
            yield _failed(path.name, found), place
            continue
        name = f"{path.name}/{found.name}"
        try:
            if isinstance(found.file, str):
                raise ImageError("no_image", found.file)
            image = usable_image(found.file)
        except ImageError as error:
            yield _failed(name, error), place
            continue
        yield _kept(stage, image, {"path": name, "recording": path.name, **found.known}), place


def _failed(path: str, reason: object) -> Record:
    return {"status": "failed", "path": path, "reason": str(reason)}


def _kept(stage: Path, image: UsableImage, known: Record) -> Record:
    stamp = {} if image.stamp_ns is None else {"stamp_ns": image.stamp_ns}
    return {
        "status": "kept",
        **stamp,
        **known,
        **stored_image(stage, RAW, image),
    }
