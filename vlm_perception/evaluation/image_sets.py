# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What sets of images have in common, whatever is known of these: folders and the road world."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.streets import Street, Streets
from vlm_perception.evaluation.folder_images import FolderImages


class ImageSet(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int:
        """How many there are."""

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Take note that an image cannot be used, or raise the error."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from other sets before any image is read."""

    def described(self) -> dict[str, str]:
        """Name, version (a digest of the data) and split, once it was gone through."""

    def notes(self) -> list[str]:
        """What is not in the set, a sentence each."""

    @property
    def broken(self) -> Sequence[str]:
        """The names of the images that are left out."""


class FolderSet:
    """Images of a folder that files beside them name."""

    def __init__(self, images: FolderImages, *files: str) -> None:
        """Keep both.

        Args:
            images: all tried already.
            files: names of those that say what is known of them; none: nothing, they are all of
                the folder's.
        """
        self._images = images
        self._files = [images.data.path / file for file in files]

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self._images.names)

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Leave an image out that broke after it was tried; see FolderImages."""
        self._images.leave_out(name, str(error))

    @property
    def identity(self) -> dict[str, str]:
        """As `described`, before anything is left out."""
        return self.described()

    def described(self) -> dict[str, str]:
        """The folder's name; the version covers the files and the images."""
        return self._images.described(*self._files)

    def notes(self) -> list[str]:
        """What is missing or broken."""
        return [*filter(None, [self._images.told()])]

    @property
    def broken(self) -> Sequence[str]:
        """The images that are missing or broken."""
        return list(self._images.broken)


class StreetSet:
    """Streets of the road world."""

    broken: Sequence[str] = ()

    def __init__(self, seeds: range) -> None:
        """Render nothing yet."""
        self._seeds, self._streets = seeds, Streets(seeds)
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        """Number of streets."""
        return len(self._streets)

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Raise the error: a rendered image is never broken."""
        raise error

    @property
    def identity(self) -> dict[str, str]:
        """Name and split, which is the seeds."""
        split = f"seeds {self._seeds[0]} to {self._seeds[-1]}"
        return {"name": "road world", "split": split}

    def described(self) -> dict[str, str]:
        """The version covers the pixels that were given, and what was said of them."""
        return {**self.identity, "version": self._digest.hexdigest()}

    def notes(self) -> list[str]:
        """None."""
        return []

    def _rendered(self) -> Iterator[Street]:
        """Render one after the other, and begin the digest; what is said of each is added to it."""
        self._digest = hashlib.sha256()
        for street in self._streets:
            self._digest.update(street.image.tobytes())
            yield street


def left_out(broken: Sequence[str]) -> dict[str, object]:
    """Images that are left out, for a report."""
    return {"count": len(broken), "names": list(broken)}
