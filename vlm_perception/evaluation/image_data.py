# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `--data` names: a folder of images with files beside them, or a split of a curated set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vlm_perception.bundle.files import file_sha256
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, CaptionsError, read_captions
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, captions_of, find_final
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE, ObjectsError, read_objects
from vlm_perception.datasets.sample import Caption
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_folder import list_images, read_bytes

EVERY_IMAGE = "every image"

Captions = Sequence[tuple[str, tuple[Caption, ...]]]
Objects = Sequence[tuple[str, tuple[str, ...]]]
"""By the names of images; an image may be named several times."""


class ImageData(Protocol):
    """Images by their names, and what is known of them."""

    path: Path
    """The folder, for people."""

    def has(self, file: str) -> bool:
        """Whether there is what such a file says: captions.jsonl, objects.jsonl and others."""

    def captions(self) -> Captions:
        """The captions of images.

        Raises:
            CaptionsError: there are none, or they are damaged.
        """

    def objects(self) -> Objects:
        """What can be seen in images.

        Raises:
            ObjectsError: it is not known, or damaged.
        """

    def all_images(self) -> list[str]:
        """The names of all images.

        Raises:
            VlmPerceptionError: they cannot be listed.
        """

    def place(self, name: str) -> Path:
        """Where an image is, for people."""

    def read(self, name: str) -> bytes:
        """The file of an image.

        Raises:
            ImageError: it cannot be read; the text begins with its place.
        """

    def described(self, digest: str, labels: Sequence[Path]) -> dict[str, str]:
        """Name, version and split, for a report.

        Args:
            digest: of the images that are used.
            labels: the files that were read; none of them: all images are used.
        """


class PlainFolder:
    """A folder of images."""

    def __init__(self, path: Path) -> None:
        """Look at nothing yet."""
        self.path = path

    def has(self, file: str) -> bool:
        """Whether the file is there."""
        return (self.path / file).exists()

    def captions(self) -> Captions:
        """What captions.jsonl says."""
        return read_captions(self.path / CAPTIONS_FILE)

    def objects(self) -> Objects:
        """What objects.jsonl says."""
        return read_objects(self.path / OBJECTS_FILE)

    def all_images(self) -> list[str]:
        """Those of the folder and its subfolders."""
        if not self.path.is_dir():
            return []
        return [str(file.relative_to(self.path)) for file in list_images(self.path, deep=True)]

    def place(self, name: str) -> Path:
        """Its path."""
        return self.path / name

    def read(self, name: str) -> bytes:
        """The file itself."""
        return read_bytes(self.path / name)

    def described(self, digest: str, labels: Sequence[Path]) -> dict[str, str]:
        """The folder's name; the version covers the labels and the images."""
        content = "".join(map(file_sha256, labels)) + digest
        return {
            "name": self.path.resolve().name,
            "version": hashlib.sha256(content.encode()).hexdigest(),
            "split": " and ".join(file.name for file in labels) or EVERY_IMAGE,
        }


class CuratedSplit:
    """A split of the final stage of a curated set; names are those in the shards."""

    def __init__(self, folder: Path, split: str) -> None:
        """Read what is known of every image.

        Raises:
            FinalSetError: the set or a shard of it cannot be used, or has no such split.
        """
        self._split = FinalSplit(folder, split)
        if not len(self._split):
            raise FinalSetError(f"the split {split} of {folder} has no images; give another one")
        self.path = folder / split
        self._places: dict[str, tuple[int, int]] = {}
        self._captions: dict[str, tuple[Caption, ...]] = {}
        self._objects: dict[str, tuple[str, ...]] = {}
        spellings: dict[str, str] = {}
        for known in self._split.records():
            self._places[known.name] = known.shard, known.place
            captions = captions_of(known.record)
            if captions:
                self._captions[known.name] = captions
            if "objects" in known.record:
                named = (spellings.setdefault(e.casefold(), e) for e in known.record["objects"])
                self._objects[known.name] = tuple(dict.fromkeys(named))

    def has(self, file: str) -> bool:
        """Captions and objects, where any image has some."""
        known = {CAPTIONS_FILE: self._captions, OBJECTS_FILE: self._objects}
        return bool(known.get(file))

    def captions(self) -> Captions:
        """Those of the records."""
        if not self._captions:
            raise CaptionsError(
                f"{self.path} has no captions; name a captioner in the set's recipe, or sources "
                "with captions"
            )
        return list(self._captions.items())

    def objects(self) -> Objects:
        """Those of the records."""
        if not any(self._objects.values()):
            raise ObjectsError(
                f"{self.path} does not say what can be seen in its images; sources of the kind "
                f"`captions` bring it along from {OBJECTS_FILE}"
            )
        return list(self._objects.items())

    def all_images(self) -> list[str]:
        """Those of the split."""
        return list(self._places)

    def place(self, name: str) -> Path:
        """Shard and name."""
        if name not in self._places:
            return self.path / name
        return self.path.parent / self._split.shards[self._places[name][0]].name / name

    def read(self, name: str) -> bytes:
        """Its file in the shard."""
        if name not in self._places:
            raise ImageError("unreadable", f"{self.path} has no image {name}")
        try:
            return self._split.image(*self._places[name]).file
        except FinalSetError as error:
            raise ImageError("unreadable", str(error)) from error

    def described(self, digest: str, labels: Sequence[Path]) -> dict[str, str]:
        """The set's name; the version covers the set, labels included, and the images used.

        Args:
            digest: of these.
            labels: have no effect: there are no files of labels.
        """
        content = self._split.contents.digest + digest
        return {
            "name": home(self.path).resolve().name,
            "version": hashlib.sha256(content.encode()).hexdigest(),
            "split": self._split.split,
        }


def open_data(path: Path) -> ImageData:
    """What a path names.

    Args:
        path: a folder of images; or a curated set: its folder, 04_final in it, which both mean the
            split `test`, or the folder of a split there.

    Raises:
        FinalSetError: it is a curated set, and cannot be used.
    """
    found = find_final(path)
    return PlainFolder(path) if found is None else CuratedSplit(*found)


def home(path: Path) -> Path:
    """The folder with what people write about a set: of a curated one that of its recipe."""
    found = find_final(path)
    return path if found is None else found[0].parent
