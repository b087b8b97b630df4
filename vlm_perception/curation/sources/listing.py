# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What there is in a source, cut into tasks; no image is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vlm_perception.common.json_lines import JsonLines
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.curation.image_files import MAGICS, READ, usable_stamp
from vlm_perception.curation.recipe import (
    CaptionsSource,
    CocoSource,
    CurationError,
    HarvestSource,
    ImageFolderSource,
    Recipe,
    RecordingSource,
    Source,
    WebDatasetSource,
    path_or_name,
)
from vlm_perception.curation.sources.key_frames import bundle_digest
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, each_captioned
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE, read_objects
from vlm_perception.evaluation.folder_images import FolderImagesError, plain_name
from vlm_perception.replay.harvest import METADATA

FILES_PER_TASK = 256
MOST_COCO = 1 << 29
"""Bytes of a COCO file, which is read as a whole."""

Item = dict[str, Any]
"""A file within a folder, with what is known of it."""


def tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The tasks of all sources, in the order of the recipe; the same for the same files.

    Args:
        folder: what the paths of the sources are relative to.
        recipe: names the sources.

    Raises:
        CurationError: a source is missing, or its list is damaged.
    """
    for number, source in enumerate(recipe.sources):
        path = _normal(folder / source.path)
        known = {"source": number, "licence": source.licence}
        match source:
            case WebDatasetSource():
                for tar in _tars(path):
                    yield {
                        **known,
                        "kind": "tar",
                        "path": str(tar),
                        "language": source.language,
                    }
            case RecordingSource():
                gate = source.key_frames and path_or_name(folder, source.key_frames)
                yield {
                    **known,
                    "kind": "recording",
                    "path": str(_existing(path)),
                    "rate_hz": source.rate_hz,
                    "topic": source.topic,
                    "key_frames": gate,
                    "bundle": bundle_digest(gate) if gate else "",
                }
            case _:
                root, items = _files(source, path, folder)
                for some in _cut(items):
                    yield {**known, "kind": "files", "root": str(root), "items": some}


def _files(source: Source, path: Path, folder: Path) -> tuple[Path, Iterable[Item]]:
    """The folder of a source that is made of files, and the files."""
    match source:
        case ImageFolderSource():
            camera = {"camera": source.camera} if source.camera else {}
            root = _folder(path)
            if folder.resolve().is_relative_to(root.resolve()):
                raise CurationError(
                    f"{folder} is inside its source {root} and would take in its own images; move "
                    "it out"
                )
            return root, ({**item, **camera} for item in _walk(root, Path()))
        case HarvestSource():
            return _folder(path), _harvest(path / METADATA)
        case CaptionsSource():
            return _folder(path), _captioned(path)
        case CocoSource():
            return _folder(_normal(folder / source.images)), _coco(_existing(path), source.language)
        case _:
            raise AssertionError(source)


def _cut(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, FILES_PER_TASK)):
        yield some


def _normal(path: Path) -> Path:
    """The path without `..`, as people read it."""
    return Path(os.path.normpath(path))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CurationError(f"the source {path} does not exist; correct its path in the recipe")
    return path


def _folder(path: Path) -> Path:
    if not _existing(path).is_dir():
        raise CurationError(f"the source {path} is no folder; correct its path in the recipe")
    return path


def _walk(root: Path, within: Path) -> Iterator[Item]:
    """Image files of a folder in the order of their names; the memory of one folder at a time."""
    try:
        entries = sorted(os.scandir(root / within), key=lambda entry: entry.name)
    except OSError as error:
        yield {"path": str(within), "reason": f"the folder cannot be read: {error.strerror}"}
        return
    for entry in entries:
        path = within / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path)
        elif entry.is_symlink() and (why := _why_not_followed(root / path)):
            yield {"path": str(path), "reason": why}
        elif path.suffix.lower() in READ or _looks_like_image(root / path):
            yield {"path": str(path), "recording": str(within)}


def _why_not_followed(link: Path) -> str:
    """Why a link is not followed; empty: it leads to no folder."""
    try:
        if not link.is_dir():
            return ""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return (
        "it is a link to a folder, which is not followed; give that folder as a source of its own"
    )


def _looks_like_image(path: Path) -> bool:
    try:
        with open_ordinary(path) as stream:
            return stream.read(max(map(len, MAGICS))).startswith(MAGICS)
    except OSError:
        return False


def _harvest(file: Path) -> Iterator[Item]:
    lines = JsonLines(
        file, "a harvested image", '{"file_name": "0.jpg", "text": ""}', CurationError
    )
    for where, content in lines:
        name, text = content.get("file_name"), content.get("text")
        if not isinstance(name, str):
            raise lines.bad(where, "`file_name` must be a name")
        item: Item = {"path": name}
        if isinstance(text, str) and text.strip():
            # A model wrote it.
            item["captions"] = [
                {"text": text, "language": "und", "by": str(content.get("bundle_digest", ""))}
            ]
        stamp = usable_stamp(content.get("stamp"))
        if stamp is not None:
            item["stamp_ns"] = stamp
        for ours, theirs in (("recording", "recording"), ("camera", "topic")):
            if isinstance(content.get(theirs), str):
                item[ours] = content[theirs]
        yield item


def _captioned(folder: Path) -> Iterable[Item]:
    """The images of a captions.jsonl, with their objects where objects.jsonl names them.

    Several lines about one image are joined.
    """
    found: dict[str, Item] = {}
    for name, captions in each_captioned(folder / CAPTIONS_FILE):
        item = _item(found, name)
        item["captions"] += [{"text": each.text, "language": each.language} for each in captions]
    if (folder / OBJECTS_FILE).exists():
        for name, objects in read_objects(folder / OBJECTS_FILE):
            known = found.get(_plain(name))
            if known is not None:
                known["objects"] = list(objects)
    return found.values()


def _item(found: dict[str, Item], name: str) -> Item:
    """The item of an image, however its name is spelt."""
    plain = _plain(name)
    return found.setdefault(plain, {"path": plain, "captions": []})


def _plain(name: str) -> str:
    try:
        return plain_name(name)
    # It fails when it is to be read.
    except FolderImagesError:
        return name


def _coco(file: Path, language: str) -> Iterable[Item]:
    try:
        with open_ordinary(file) as stream:
            text = stream.read(MOST_COCO + 1)
    except OSError as error:
        raise CurationError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(text) > MOST_COCO:
        raise CurationError(f"{file} is larger than {MOST_COCO} bytes; split it")
    try:
        content = json.loads(text)
        licences = {each["id"]: str(each["name"]) for each in content.get("licenses", [])}
        found: dict[Any, Item] = {}
        for image in content["images"]:
            item: Item = {"path": str(image["file_name"]), "captions": []}
            if image.get("license") in licences:
                item["licence"] = licences[image["license"]]
            found[image["id"]] = item
        for each in content["annotations"]:
            if str(each["caption"]).strip():
                caption = {"text": str(each["caption"]), "language": language}
                found[each["image_id"]]["captions"].append(caption)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CurationError(
            f"{file} does not hold captions as COCO has them ({error!r}): `images` with id and "
            "file_name, `annotations` with image_id and caption"
        ) from error
    joined: dict[str, Item] = {}
    for item in found.values():
        known = _item(joined, item["path"])
        joined[known["path"]] = {**item, **known, "captions": known["captions"] + item["captions"]}
    return joined.values()


def _tars(pattern: Path) -> list[Path]:
    """The tars that a path names, which may have wildcards in its last part."""
    if pattern.is_dir():
        raise CurationError(f"{pattern} is a folder; name the tars in it: {pattern / '*.tar'}")
    if pattern.exists():
        return [pattern]
    try:
        found = sorted(each for each in pattern.parent.glob(pattern.name) if not each.is_dir())
    except ValueError as error:
        raise CurationError(
            f"{pattern} is no pattern of names ({error}); * and ? are known, in the last part"
        ) from error
    if not found:
        raise CurationError(f"no file is named {pattern}; correct the path in the recipe")
    return found
