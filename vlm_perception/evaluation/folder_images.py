# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a folder that a file of labels names, all of them tried before the long work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.image_data import ImageData
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_folder import decode_file
from vlm_perception.perception.tokenizer import TextError, require_text

NAMED = 5
"""How many images a sentence names; it counts the others."""


class FolderImagesError(VlmPerceptionError):
    """Images that an evaluation needs are missing or broken; the message names them."""


class FolderImages:
    """Images of a folder by their names, relative to it, each once and in the order of the labels.

    A name cannot lead out of the folder; a symbolic link in it, which labels cannot make, can.
    """

    def __init__(self, data: ImageData, names: Iterable[str], *, skip_broken: bool = False) -> None:
        """Read every image once, with a progress bar.

        Args:
            data: where they are.
            names: as labels give them; those that differ in spelling alone are one image.
            skip_broken: leave out the images that are missing or broken, unless all are.

        Raises:
            FolderImagesError: there is no folder, a name leads out of it, or images are missing or
                broken and not to be left out.
        """
        if not data.path.is_dir():
            raise FolderImagesError(f"{data.path} is no folder; give one with images")
        self.data = data
        self._skip_broken = skip_broken
        self.broken: dict[str, str] = {}
        """Images that cannot be used, and why."""
        self.digests: dict[str, str] = {}
        """The SHA-256 of the file of each image that can be used."""
        wanted = list(dict.fromkeys(map(plain_name, names)))
        for name in track(wanted, "Reading images", transient=True):
            try:
                file = data.read(name)
                decode_file(data.place(name), file)
                self.digests[name] = hashlib.sha256(file).hexdigest()
            except ImageError as error:
                self.broken[name] = str(error)
        if not wanted:
            raise FolderImagesError(
                f"no image of {data.path} has a label; give labels of its images"
            )
        self._require_enough()

    @property
    def names(self) -> Collection[str]:
        """The images that can be used."""
        return self.digests.keys()

    @property
    def digest(self) -> str:
        """Of the names and the files of the images that can be used."""
        lines = (f"{sha256} {name}\n" for name, sha256 in self.digests.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def described(self, *labels: Path) -> dict[str, str]:
        """Name, version and split of the set, for a report.

        Args:
            labels: the files that name the images; the version is a digest of them all. None of
                them: it is all images of the folder.
        """
        return self.data.described(self.digest, labels)

    def read(self, name: str) -> NDArray[np.uint8]:
        """An image upright, uint8 RGB [height, width, 3].

        Raises:
            ImageError: it was altered since it was tried.
        """
        path, file = self.data.place(name), self.data.read(name)
        if hashlib.sha256(file).hexdigest() != self.digests[name]:
            raise ImageError(
                "altered",
                f"{path} was altered during the evaluation; leave the folder as it is, and try "
                "again",
            )
        return decode_file(path, file)

    def leave_out(self, name: str, why: str) -> None:
        """Count an image as broken that could be read, but not used.

        Raises:
            FolderImagesError: it is not to be left out, or the last one.
        """
        del self.digests[name]
        self.broken[name] = why
        self._require_enough()

    def told(self) -> str:
        """How many images are missing or broken, with the first of them; empty if none is."""
        if not self.broken:
            return ""
        tried = len(self.broken) + len(self.digests)
        first = "; ".join(list(self.broken.values())[:NAMED])
        rest = len(self.broken) - NAMED
        return f"{len(self.broken)} of {tried} images are missing or broken: {first}" + (
            f"; and {rest} more" if rest > 0 else ""
        )

    def _require_enough(self) -> None:
        if not self.digests:
            raise FolderImagesError(f"no image can be used: {self.told()}; give another folder")
        if self.broken and not self._skip_broken:
            raise FolderImagesError(
                f"{self.told()}; replace them, or leave them out with --skip-broken"
            )


def plain_name(name: str) -> str:
    """The name of an image within its folder, spelt the one way.

    Raises:
        FolderImagesError: it is empty, no text, or leads out of the folder.
    """
    try:
        require_text(name)
    except TextError as error:
        raise FolderImagesError(f"the image name {name!r} cannot be used: {error}") from error
    plain = PurePosixPath(os.path.normpath(name))
    if not name.strip() or plain.is_absolute() or plain.parts[:1] in ((), ("..",)):
        raise FolderImagesError(
            f"the image name {name!r} leads out of the folder; name images by their paths in it"
        )
    return str(plain)
