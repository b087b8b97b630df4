# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images from files: a folder, or a split of a curated set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.files import file_sha256
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, is_in, read_captions
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, captions_of, find_final
from vlm_perception.datasets.sample import Caption
from vlm_perception.media.image_folder import decode_file, list_images, read_bytes
from vlm_perception.training.distillation.examples import Example, View
from vlm_perception.training.distillation.images.pixels import brightened, crop, resized
from vlm_perception.training.distillation.recipe import DistillationError


class _Files:
    """What both have in common: names, captions, and how a view is made of a picture."""

    digest: str

    def __init__(self, names: Sequence[str], captions: Sequence[tuple[str, ...]]) -> None:
        self._names, self._captions = names, captions
        self.captioned = any(captions)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Its path, or its name within the set."""
        return self._names[index]

    def whole(self, index: int) -> NDArray[np.uint8]:
        """An image, RGB [H, W, 3]."""
        raise NotImplementedError

    def picture(self, index: int, view: View) -> NDArray[np.uint8]:
        """A view in full resolution."""
        return brightened(crop(self.whole(index), view), view.gain)

    def example(
        self, index: int, view: View, size: tuple[int, int], grid: tuple[int, int]
    ) -> Example:
        """A view at the student's size; nothing is known of its patches."""
        part = crop(self.whole(index), view)
        image = brightened(resized(part, size), view.gain)
        return Example(self.name(index), image, self._captions[index], None)


class FolderOfImages(_Files):
    """All images of a folder, with the captions of captions.jsonl."""

    def __init__(self, path: Path, languages: Sequence[str]) -> None:
        """List them.

        Raises:
            DistillationError: there are none.
            CaptionsError: captions.jsonl is damaged.
        """
        if not path.is_dir():
            raise DistillationError(f"there is no folder of images {path}")
        files = list_images(path, deep=True)
        if not files:
            raise DistillationError(f"{path} has no images")
        names = [str(file.relative_to(path)) for file in files]
        known: dict[str, list[str]] = {}
        if (path / CAPTIONS_FILE).exists():
            for name, captions in read_captions(path / CAPTIONS_FILE):
                known.setdefault(name, []).extend(_wanted(captions, languages))
        super().__init__(names, [tuple(known.get(name, ())) for name in names])
        self._path = path
        digest = hashlib.sha256()
        for name, file in zip(names, files, strict=True):
            digest.update(f"{name} {file_sha256(file)} {known.get(name, ())}\n".encode())
        self.digest = digest.hexdigest()

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Decode a file."""
        file = self._path / self._names[index]
        return decode_file(file, read_bytes(file))


class SplitOfImages(_Files):
    """A split of the final stage of a curated set."""

    def __init__(self, path: Path, split: str, languages: Sequence[str]) -> None:
        """List them.

        Raises:
            FinalSetError: it is no curated set, or has no such split.
        """
        found = find_final(path, split)
        if found is None:
            raise FinalSetError(
                f"{path} is no curated set; `vlm-perception curate init` begins one"
            )
        self._split = FinalSplit(found[0], split)
        records = list(self._split.records())
        if not records:
            raise FinalSetError(f"{path} has no images in the split {split}")
        self._places = [(each.shard, each.place) for each in records]
        captions = [tuple(_wanted(captions_of(each.record), languages)) for each in records]
        super().__init__([each.name for each in records], captions)
        # The split keeps the places of few shards at a time.
        self._lock = Lock()
        content = f"{self._split.contents.digest} {split} {sorted(languages)}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Decode an image of a shard."""
        with self._lock:
            image = self._split.image(*self._places[index])
        return image.pixels()


def _wanted(captions: Sequence[Caption], languages: Sequence[str]) -> list[str]:
    return [each.text for each in captions if is_in(each.language, languages)]
