# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images from files: a folder, or a split of a curated set."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.machine import cpu_count
from vlm_perception.datasets.captions_file import (
    CAPTIONS_FILE,
    UNKNOWN,
    CaptionsError,
    is_in,
    read_captions,
)
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, captions_of, find_final
from vlm_perception.datasets.sample import Caption
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_folder import decode_file, list_images, read_bytes
from vlm_perception.training.distillation.examples import Example, View
from vlm_perception.training.distillation.images.mirrored_texts import is_understood, mirrored
from vlm_perception.training.distillation.images.pixels import brightened, crop, resized
from vlm_perception.training.distillation.learned import DIGITS, Learned
from vlm_perception.training.distillation.recipe import DistillationError

CHECKED = "images_checked"
"""Holds the digest of a folder's images that could all be decoded."""

_log = logging.getLogger(__name__)


class _Files:
    """What both have in common: names, captions, and how a view is made of a picture."""

    digest: str
    learned: Learned

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        captions: Sequence[Sequence[Caption]],
        languages: Sequence[str],
    ) -> None:
        self._path, self._names = path, names
        self._captions = [_wanted(each, languages) for each in captions]
        self.captioned = any(self._captions)
        self._said: set[str] = set()
        found = sorted({caption.language for each in captions for caption in each})
        if found and not self.captioned:
            self._say(
                f"the captions of {path} are in {', '.join(found)}, and none of them is used: "
                f"`languages` of the recipe has {', '.join(languages)}"
            )

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
        """A view at the student's size; nothing is known of its patches.

        Captions that may not be true of a mirrored view are left out.
        """
        part = crop(self.whole(index), view)
        height, width = part.shape[:2]
        if width < size[0] or height < size[1]:
            self._say(
                f"views of {self._path} are enlarged: they are smaller than the student's "
                f"{size[0]}x{size[1]} pixels, such as one of {self.name(index)} with "
                f"{width}x{height}",
                "enlarged",
            )
        image = brightened(resized(part, size), view.gain)
        return Example(self.name(index), image, self.captions(index, view), None)

    def captions(self, index: int, view: View) -> tuple[str, ...]:
        """Captions of an image that are true of a view."""
        captions = self._captions[index]
        if not view.mirrored:
            return tuple(each.text for each in captions)
        if any(each.language == UNKNOWN for each in captions):
            self._say(
                f"captions of {self._path} name no language, so that left and right cannot be "
                "swapped, and mirrored views go without them; give their language, such as "
                '"language": "en"',
                "unknown",
            )
        swapped = (mirrored(each.text) for each in captions if is_understood(each.language))
        return tuple(text for text in swapped if text is not None)

    def _say(self, sentence: str, kind: str = "") -> None:
        if kind not in self._said:
            self._said.add(kind)
            _log.warning("%s", sentence)


class FolderOfImages(_Files):
    """All images of a folder, with the captions of captions.jsonl."""

    def __init__(self, path: Path, languages: Sequence[str], out: Path) -> None:
        """List them, and decode each once.

        Args:
            path: the folder.
            languages: of captions that are wanted.
            out: folder that remembers which images were decoded.

        Raises:
            DistillationError: there are none, or some are broken.
            CaptionsError: captions.jsonl is damaged, or names an image that is not there.
        """
        if not path.is_dir():
            what = "is a file" if path.exists() else "is not there"
            raise DistillationError(f"{path} {what}; `images.path` must be a folder of images")
        files = list_images(path, deep=True)
        if not files:
            raise DistillationError(f"{path} has no images; give a folder that has some")
        names = [str(file.relative_to(path)) for file in files]
        known = _captions_beside(path, names)
        super().__init__(path, names, [known.get(name, ()) for name in names], languages)
        with ThreadPoolExecutor(cpu_count()) as pool:
            digest, contents = hashlib.sha256(), list(pool.map(_sha256, files))
            for name, sha256, captions in zip(names, contents, self._captions, strict=True):
                digest.update(f"{name} {sha256} {captions}\n".encode())
            self.learned = Learned(images=frozenset(each[:DIGITS] for each in contents))
            self.digest = digest.hexdigest()
            mark = out / CHECKED
            if not mark.exists() or mark.read_text() != self.digest:
                _require_whole(path, files, pool)
                mark.write_text(self.digest)

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Decode a file."""
        return _decoded(self._path / self._names[index])


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
        folder, split = found
        self._split = FinalSplit(folder, split, remember_all=True)
        records = list(self._split.records())
        if not records:
            raise FinalSetError(f"{path} has no images in the split {split}")
        self._places = [(each.shard, each.place) for each in records]
        known = (str(each.record.get("sha256", "")) for each in records)
        self.learned = Learned(images=frozenset(each[:DIGITS] for each in known if each))
        captions = [captions_of(each.record) for each in records]
        super().__init__(folder / split, [each.name for each in records], captions, languages)
        # Places of a shard's files are looked up by one thread at a time.
        self._lock = Lock()
        content = f"{self._split.contents.digest} {split} {sorted(languages)}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Decode an image of a shard."""
        with self._lock:
            image = self._split.image(*self._places[index])
        return image.pixels()


def _wanted(captions: Sequence[Caption], languages: Sequence[str]) -> tuple[Caption, ...]:
    return tuple(each for each in captions if is_in(each.language, languages))


def _captions_beside(path: Path, names: Sequence[str]) -> dict[str, list[Caption]]:
    known: dict[str, list[Caption]] = {}
    file = path / CAPTIONS_FILE
    if not file.exists():
        return known
    for name, captions in read_captions(file):
        known.setdefault(os.path.normpath(name), []).extend(captions)
    missing = sorted(known.keys() - set(names))
    if missing:
        raise CaptionsError(
            f"{file} has captions of {len(missing)} images that are not in the folder, such as "
            f"{missing[0]}; add these images, or take their lines out"
        )
    return known


def _sha256(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise DistillationError(f"{file} cannot be read: {error.strerror}") from error


def _decoded(file: Path) -> NDArray[np.uint8]:
    return decode_file(file, read_bytes(file))


def _fault(file: Path) -> str:
    """Why an image cannot be used; empty if it can."""
    try:
        _decoded(file)
    except ImageError as error:
        return str(error)
    return ""


def _require_whole(path: Path, files: Sequence[Path], pool: ThreadPoolExecutor) -> None:
    tried = track(pool.map(_fault, files), "Reading images", len(files), transient=True)
    faults = [fault for fault in tried if fault]
    if faults:
        raise DistillationError(
            f"{len(faults)} of {len(files)} images of {path} are broken; replace them, or take "
            f"them out; the first: {faults[0]}"
        )
