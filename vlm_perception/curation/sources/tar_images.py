# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a WebDataset tar, each with the texts beside it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vlm_perception.curation.image_files import MOST_BYTES, READ
from vlm_perception.curation.tasks import Record

MOST_TEXT = 1 << 20
"""Bytes of a caption's file, and of the headers that tarfile reads as a whole."""
TEXTS = (".txt", ".json")
# Each header that describes another one is a call of tarfile's.
FAULTS = (tarfile.TarError, OSError, EOFError, ValueError, RecursionError)

_WHOLE_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

Content = bytes | str
"""Of a file in a tar, or why it is left out."""


@dataclass(frozen=True)
class TarImage:
    """An image, or a sample that has none."""

    name: str
    file: Content
    known: Record
    """Captions and licence, and in `notes` what is left out of them."""


@dataclass
class _Sample:
    """Neighbouring files whose names are the same up to the first dot."""

    key: str
    images: list[tuple[str, Content]] = field(default_factory=list)
    texts: dict[tuple[str, str], Content] = field(default_factory=dict)
    """By the name without its suffix, and the suffix."""
    held: int = 0
    """Bytes."""


def tar_images(path: Path, language: str) -> Iterator[TarImage | str]:
    """Each image of a tar, in its order; at the end, where it is damaged, the fault.

    Args:
        path: the tar, which may be compressed.
        language: of its captions.
    """
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as tar:
            for sample in _samples(tar):
                yield from _images(sample, language)
    except FAULTS as error:
        yield f"the tar cannot be read to its end: {error}"


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        """Refuse a header that would take the memory."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _WHOLE_HEADERS and member.size > MOST_TEXT:
            raise tarfile.ReadError(f"a header has {member.size} bytes")
        return member


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    sample = _Sample("")
    try:
        for member in tar:
            suffix = PurePosixPath(member.name).suffix.lower()
            if member.isdir() or suffix not in (*READ, *TEXTS):
                continue
            key = _key(member.name)
            # A whole drive may be one sample by its names: it is not held in memory.
            if key != sample.key or sample.held > MOST_BYTES:
                yield sample
                sample = _Sample(key)
            content = _content(tar, member, MOST_BYTES if suffix in READ else MOST_TEXT)
            sample.held += len(content)
            if suffix in READ:
                sample.images.append((member.name, content))
            else:
                sample.texts[_own(member.name), suffix] = content
    except FAULTS:
        # What was read before is whole.
        yield sample
        raise
    yield sample


def _key(name: str) -> str:
    path = PurePosixPath(name)
    stem = path.name.partition(".")[0]
    return str(path.with_name(stem)) if stem else name


def _own(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> Content:
    # Of a link, the file would have to be sought in what was read before.
    stream: IO[bytes] | None = tar.extractfile(member) if member.isfile() else None
    if stream is None:
        return "it is no ordinary file"
    return stream.read() if member.size <= most else f"it has more than {most} bytes"


def _images(sample: _Sample, language: str) -> Iterator[TarImage]:
    for name, file in sample.images:
        # A text of the image's own name, else of the sample's.
        text, described = (
            sample.texts.get((_own(name), suffix)) or sample.texts.get((sample.key, suffix), b"")
            for suffix in TEXTS
        )
        yield TarImage(name, file, _told(text, described, language))
    if sample.texts and not sample.images:
        yield TarImage(sample.key, "it has no image", {})


def _told(text: Content, described: Content, language: str) -> Record:
    notes = [
        f"the {suffix} is left out: {content}"
        for suffix, content in zip(TEXTS, (text, described), strict=True)
        if isinstance(content, str)
    ]
    captions = [text.decode("utf-8", "replace")] if isinstance(text, bytes) else []
    content: dict[str, Any] = {}
    if isinstance(described, bytes) and described:
        try:
            content = json.loads(described)
        except (ValueError, RecursionError) as error:
            notes.append(f"the .json is left out: it is damaged ({error})")
        if not isinstance(content, dict):
            notes.append("the .json is left out: it is no object")
            content = {}
    if not any(map(str.strip, captions)):
        captions = _captions(content.get("caption"), notes)
    known: Record = {}
    if texts := [each.strip() for each in captions if each.strip()]:
        known["captions"] = [{"text": each, "language": language} for each in texts]
    licence = content.get("license") or content.get("licence")
    if isinstance(licence, str):
        known["licence"] = licence
    return {**known, "notes": notes} if notes else known


def _captions(caption: object, notes: list[str]) -> list[str]:
    """The captions of a JSON file: a text, or several."""
    several = caption if isinstance(caption, list) else [caption]
    texts = [each for each in several if isinstance(each, str)]
    if caption is not None and len(texts) < len(several):
        notes.append("`caption` is no text, nor a list of texts")
    return texts
