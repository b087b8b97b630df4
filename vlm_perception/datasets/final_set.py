# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The final stage of a curated set: what it holds, and its images, one after the other or by place.

A set is a folder with set.json, which names the shards of each split with their digests. A shard is
a tar as WebDataset has it: KEY.jpg (or .png, .webp), and KEY.json with all that is known of it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.datasets.sample import Caption
from vlm_perception.media.image_folder import decode_file

STAGE = "04_final"
"""Name of the folder within that of the whole set."""
RECIPE = "recipe.yaml"
"""What every folder of a whole set has; it names `sources`."""
SET, MANIFEST = "set.json", "stage.json"
TEST = "test"
DESCRIPTION = ".json"
MOST_OPEN = 8
"""Shards of which the places of their files are remembered, unless more are asked for."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FinalSetError(VlmPerceptionError):
    """A curated set cannot be read; the text says which file of it, and what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Model):
    """A tar of images."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*/[0-9]{6,}\.tar$")]
    """Within the folder of the set."""
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=1)]
    captions: Annotated[int, Field(ge=0)]

    def with_image(self, captions: int) -> Shard:
        """The same shard with one more image, which has so many captions."""
        more = {"images": self.images + 1, "captions": self.captions + captions}
        return self.model_copy(update=more)


class Contents(_Model):
    """What set.json holds."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    splits: dict[str, tuple[Shard, ...]]
    digest: Sha256
    """Of the splits: two sets of one digest are the same."""

    @classmethod
    def of(cls, shards: Mapping[str, Sequence[Shard]]) -> Contents:
        """The contents that are these shards of each split."""
        splits = {split: tuple(some) for split, some in shards.items()}
        return cls(splits=splits, digest=_digest(splits))

    def as_json(self) -> bytes:
        """As set.json has it."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def _digest(splits: Mapping[str, Sequence[Shard]]) -> str:
    content = {split: [shard.model_dump() for shard in some] for split, some in splits.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def captions_of(record: Mapping[str, Any]) -> tuple[Caption, ...]:
    """The captions of an image in the order of its record."""
    found = record.get("captions", ())
    return tuple(Caption(each["text"], each["language"]) for each in found)


@dataclass(frozen=True)
class FinalRecord:
    """What is known of an image, without the image."""

    shard: int
    place: int
    """See `FinalSplit.image`."""
    name: str
    """Of its file within the shard."""
    record: Mapping[str, Any]
    """As `FinalImage` has it."""


@dataclass(frozen=True)
class FinalImage:
    """An image of the set."""

    key: str
    where: Path
    """Shard and name within it, for people."""
    file: bytes
    """JPEG, PNG or WebP."""
    record: Mapping[str, Any]
    """All that is known of it, as KEY.json has it."""

    @property
    def captions(self) -> tuple[Caption, ...]:
        """Its captions in the order of the record."""
        return captions_of(self.record)

    def pixels(self) -> NDArray[np.uint8]:
        """Its pixels, RGB [height, width, 3].

        Raises:
            ImageError: it is damaged; the text names shard and key.
        """
        return decode_file(self.where, self.file)


@dataclass(frozen=True)
class _Entry:
    """Where the two files of an image are in a tar."""

    name: str
    image: tuple[int, int]
    """Offset and size."""
    record: tuple[int, int]


class FinalSplit:
    """A split of a curated set."""

    def __init__(self, folder: Path, split: str, *, remember_all: bool = False) -> None:
        """Read what it holds; shards are checked when they are first read from.

        Args:
            folder: of the final stage.
            split: its name.
            remember_all: where the files of every shard are, for access in any order.

        Raises:
            FinalSetError: set.json is missing, damaged or was altered, or there is no such split.
        """
        self.folder, self.split = folder, split
        self.contents = _contents(folder)
        if split not in self.contents.splits:
            known = ", ".join(self.contents.splits)
            raise FinalSetError(f"{folder} has no split {split!r}; it has {known}")
        self.shards = self.contents.splits[split]
        self._remembered = max(MOST_OPEN, len(self.shards) if remember_all else 0)
        self._checked: set[str] = set()
        self._entries: OrderedDict[str, list[_Entry]] = OrderedDict()

    def __len__(self) -> int:
        """Number of images."""
        return sum(shard.images for shard in self.shards)

    def __iter__(self) -> Iterator[FinalImage]:
        """The images in the order of the shards.

        Raises:
            FinalSetError: a shard is missing, damaged or was altered.
        """
        for number, shard in enumerate(self.shards):
            for place in range(shard.images):
                yield self.image(number, place)

    def image(self, shard: int, place: int) -> FinalImage:
        """An image by the number of its shard and its place there.

        Raises:
            FinalSetError: the shard is missing, damaged or was altered.
        """
        entry = self._of_shard(self.shards[shard])[place]
        file = self.folder / self.shards[shard].name
        with _opened(file) as stream:
            image, record = _part(stream, entry.image), json.loads(_part(stream, entry.record))
        return FinalImage(entry.name.partition(".")[0], file / entry.name, image, record)

    def records(self) -> Iterator[FinalRecord]:
        """What is known of the images, in the order of the shards.

        Raises:
            FinalSetError: a shard is missing, damaged or was altered.
        """
        for number, shard in enumerate(self.shards):
            entries = self._of_shard(shard)
            with _opened(self.folder / shard.name) as stream:
                for place, entry in enumerate(entries):
                    record = json.loads(_part(stream, entry.record))
                    yield FinalRecord(number, place, entry.name, record)

    def _of_shard(self, shard: Shard) -> list[_Entry]:
        if shard.name in self._entries:
            self._entries.move_to_end(shard.name)
            return self._entries[shard.name]
        file = self.folder / shard.name
        try:
            if shard.name not in self._checked and file_sha256(file) != shard.sha256:
                raise _bad(file, "its digest is not that of set.json")
            entries = list(_entries(file))
        except (OSError, tarfile.TarError) as error:
            raise _bad(file, error) from error
        if len(entries) != shard.images:
            raise _bad(file, f"it has {len(entries)} images in place of {shard.images}")
        self._checked.add(shard.name)
        self._entries[shard.name] = entries
        while len(self._entries) > self._remembered:
            self._entries.popitem(last=False)
        return entries


def find_final(path: Path, split: str = TEST) -> tuple[Path, str] | None:
    """The final stage that a path leads to, and the split.

    Args:
        path: the folder of a whole set, that of its final stage, or that of a split there.
        split: that is meant where the path names none.

    Returns:
        None: it is no curated set; other folders may hold files of the same names.

    Raises:
        FinalSetError: it is one whose final stage was not made.
    """
    for folder in (path, path / STAGE):
        if _is_final(folder):
            return folder, split
    if _is_final(path.parent):
        return path.parent, path.name
    if _is_recipe(path / RECIPE):
        raise FinalSetError(f"{path} has no {STAGE}; `vlm-perception curate run {path}` makes it")
    return None


def _is_final(folder: Path) -> bool:
    """Whether a folder is a final stage, by what is beside set.json or in it, even damaged."""
    if not (folder / SET).is_file():
        return False
    if folder.name == STAGE or (folder / MANIFEST).is_file():
        return True
    try:
        content = json.loads((folder / SET).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(Contents.model_fields) <= set(content)


def _is_recipe(file: Path) -> bool:
    try:
        content = read_yaml(file)
    except (OSError, YamlError):
        return False
    return isinstance(content, dict) and "sources" in content


def _contents(folder: Path) -> Contents:
    try:
        found = Contents.model_validate_json((folder / SET).read_bytes())
    except FileNotFoundError as error:
        raise FinalSetError(
            f"{folder} is no final stage of a curated set: it has no {SET}; `vlm-perception curate "
            "run` makes one"
        ) from error
    except ValidationError as error:
        raise _bad(folder / SET, describe_errors(error)) from error
    except OSError as error:
        raise _bad(folder / SET, error.strerror or error) from error
    if found.digest != _digest(found.splits):
        raise _bad(folder / SET, "it was altered: its digest does not fit what it holds")
    return found


def _bad(file: Path, why: object) -> FinalSetError:
    return FinalSetError(
        f"{file} cannot be used ({why}); `vlm-perception curate run` with --redo {STAGE} makes the "
        "final stage again"
    )


def _entries(file: Path) -> Iterator[_Entry]:
    """The images of a tar; each is followed by its description."""
    with tarfile.open(file, "r:") as tar:
        image: tarfile.TarInfo | None = None
        for member in tar:
            if not member.name.endswith(DESCRIPTION):
                image = member
            elif image is not None:
                parts = [(each.offset_data, each.size) for each in (image, member)]
                yield _Entry(image.name, *parts)
                image = None


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A shard; what cannot be read of it is an error of the set."""
    try:
        with file.open("rb") as stream:
            yield stream
    except (OSError, ValueError) as error:
        raise _bad(file, error) from error


def _part(stream: BinaryIO, part: tuple[int, int]) -> bytes:
    offset, size = part
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise OSError("it ends early")
    return content
