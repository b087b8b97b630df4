# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A shard: a tar as WebDataset has it, KEY.jpg with KEY.json; the same images, the same bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_perception.curation.image_files import read_file
from vlm_perception.curation.json_lines import json_line
from vlm_perception.curation.tasks import Position, Record
from vlm_perception.datasets.final_set import DESCRIPTION
from vlm_perception.media.image_errors import ImageError
from vlm_perception.outputs.durable import whole_file

NOT_TOLD = ("file", "status")
"""Of a record: what says nothing to those who have the shard alone."""


def key(record: Record) -> str:
    """The name of an image in its shard, without suffix; no other of the set has it."""
    return f"{record['id']:09d}"


def image_name(record: Record) -> str:
    """The name of its file there."""
    return key(record) + PurePosixPath(record["file"]).suffix


def described(record: Record) -> bytes:
    """What KEY.json holds: all that is known of the image."""
    told = {name: value for name, value in record.items() if name not in NOT_TOLD}
    return json_line({"key": key(record), **told})


def room(sizes: Sequence[int]) -> int:
    """Bytes that files of such sizes take in a tar, with their headers."""
    block = tarfile.BLOCKSIZE
    return sum(block + -(-size // block) * block for size in sizes)


def do_shard(task: dict[str, Any], folder: Path, position: Position) -> Iterator[Any]:
    """Write a shard; see `tasks.Work`. One that was interrupted is written again, as a whole."""
    records, file = task["records"], folder / "stage" / task["shard"]
    faults = _write(Path(task["folder"]), file, records)
    begin = position or 0
    for place, record in enumerate(records[begin:], begin):
        if place in faults:
            known = {name: value for name, value in record.items() if name != "shard"}
            yield {**known, "status": "failed", "reason": faults[place]}, place + 1
        else:
            yield {**record, "status": "kept"}, place + 1


def _write(folder: Path, file: Path, records: Sequence[Record]) -> dict[int, str]:
    """Write the images that can be read; returns why the others cannot, by their places."""
    faults: dict[int, str] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(file) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for place, record in enumerate(records):
            try:
                image = _image(folder, record)
            except ImageError as error:
                faults[place] = str(error)
                continue
            _add(tar, image_name(record), image)
            _add(tar, key(record) + DESCRIPTION, described(record))
    if len(faults) == len(records):
        file.unlink()
    return faults


def _image(folder: Path, record: Record) -> bytes:
    content = read_file(folder / record["file"])
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ImageError("altered", f"{record['file']} was altered after it was taken in")
    return content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Of owner and time tarfile's defaults are always the same.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
