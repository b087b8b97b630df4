# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `teacher` of a run: asks the teacher about every view, once, and stores what it says."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vlm_perception.common.recipe_changes import changes
from vlm_perception.outputs.console import say
from vlm_perception.outputs.durable import PART_SUFFIX, sync_folder, whole_file, write_bytes
from vlm_perception.training.distillation.examples import Images, View, draw_views
from vlm_perception.training.distillation.images.open import open_images
from vlm_perception.training.distillation.learned import FILE, overlap, read_learned
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    EndpointLanguage,
    Recipe,
    Teacher,
    Views,
)
from vlm_perception.training.distillation.room import require_room
from vlm_perception.training.distillation.student.build import place, teacher_folder
from vlm_perception.training.distillation.teacher.encoder import EncoderTeacher
from vlm_perception.training.distillation.teacher.language import LanguageTeacher, Speaker
from vlm_perception.training.distillation.teacher.served import ServedTeacher
from vlm_perception.training.distillation.teacher.store import (
    IMAGES_PER_SHARD,
    LABEL_IDS,
    LABEL_TEXTS,
    MANIFEST,
    PATCHES,
    POOLED,
    PROBABILITIES,
    REFERENCE,
    VIEWS,
    WORDS,
    Manifest,
    TaughtBatch,
    read_manifest,
    shard_folder,
    shards,
)
from vlm_perception.training.distillation.teacher.words import store_words

BATCH = 16
READERS = 2
_OWN = {WORDS, LABEL_TEXTS}
"""What a store may hold that has no manifest yet."""


def make(run: Run, work: Path) -> None:
    """Store what the teacher says, or go on where an interrupted run was.

    Raises:
        DistillationError: the teacher or the store cannot be used, or there is too little room.
    """
    recipe = run.recipe
    teacher = recipe.teacher
    assert teacher is not None
    images = open_images(recipe.images, run.home, recipe.languages, run.out)
    store = run.place(teacher.store) if teacher.store else work / "store"
    if teacher.encoder is not None:
        folder = teacher_folder(recipe, run.home)
        _require_unknown(folder, images)
        encoder = EncoderTeacher(
            folder,
            teacher.labels,
            teacher.templates,
            teacher.top_labels,
            teacher.patches,
        )
        _store(recipe, images, encoder, store)
    if teacher.language is not None:
        with _speaker(run, teacher, images) as speaker:
            store_words(recipe, images, speaker, store / WORDS)
    # The part's folder moves when it is finished.
    final = store if teacher.store else run.out / "teacher" / "store"
    (work / REFERENCE).write_text(json.dumps({"store": str(final.absolute())}))


@contextmanager
def _speaker(run: Run, teacher: Teacher, images: Images) -> Iterator[Speaker]:
    """The teacher's language model."""
    spec = teacher.language
    if isinstance(spec, EndpointLanguage):
        served = ServedTeacher(spec, run.home, teacher.caption, teacher.questions)
        with closing(served):
            _note_unknown(f"{spec.model} on {spec.endpoint}")
            yield served
    elif spec is not None:
        path = place(run.home, spec.path)
        model = LanguageTeacher(path, teacher.caption, teacher.questions)
        _require_unknown(model.folder, images)
        yield model


def _require_unknown(teacher: Path, images: Images) -> None:
    """Refuse images that the teacher was trained on."""
    learned = read_learned(teacher)
    if learned is None:
        _note_unknown(f"{teacher}, which has no {FILE},")
    elif known := overlap(learned, images.learned):
        raise DistillationError(
            f"{teacher} was trained on {known.count} of these images, such as {known.example}; "
            "what it says of them would give away their labels: take others"
        )


def _note_unknown(teacher: str) -> None:
    say(
        Console(stderr=True),
        f"note: {teacher} does not say what it was trained on; its outputs on those images would "
        "give away their labels",
    )


def _store(recipe: Recipe, images: Images, encoder: EncoderTeacher, store: Path) -> None:
    manifest = _manifest(recipe, images, encoder)
    known = _require_same(store, manifest)
    missing = [each for each in shards(len(images)) if not shard_folder(store, each).exists()]
    views, each = recipe.views.count, _bytes_per_image(manifest, recipe.views)
    require_room(
        store,
        min(len(missing) * IMAGES_PER_SHARD, len(images)) * each,
        "leave the patches out (`teacher.patches: false`), take fewer views, or name another "
        "`teacher.store`",
    )
    console = Console(stderr=True)
    say(
        console,
        f"teacher: {len(images)} images in {views} views, {each} bytes an image, "
        f"{len(images) * each / 1e9:.3f} GB in all",
    )
    if not known:
        store.mkdir(parents=True, exist_ok=True)
        _save(store / LABEL_TEXTS, encoder.label_texts)
        # Last: a store with a manifest has all else that is not of shards.
        write_bytes(store / MANIFEST, manifest.model_dump_json(indent=1).encode())
    began, looked = time.monotonic(), 0
    with Progress(console=console) as progress:
        bar = progress.add_task("teacher", total=len(images) * views)
        progress.advance(bar, (len(shards(len(images))) - len(missing)) * IMAGES_PER_SHARD * views)
        for number in missing:
            looked += _write_shard(recipe, images, encoder, store, number)
            progress.update(bar, advance=IMAGES_PER_SHARD * views)
    if looked:
        say(console, f"teacher: {looked / (time.monotonic() - began):.1f} views a second")


def _bytes_per_image(manifest: Manifest, views: Views) -> int:
    """What the views of an image take in the store."""
    patches = 0 if manifest.grid is None else manifest.grid[0] * manifest.grid[1]
    top = min(manifest.top_labels, len(manifest.labels))
    # The views' own numbers are JSON, with as many digits as they are drawn with.
    drawn = [[asdict(view) for view in draw_views(0, index, views)] for index in range(16)]
    text = max(len(json.dumps(each)) + len(", ") for each in drawn)
    return views.count * (2 * manifest.width * (1 + patches) + 4 * top) + text


def _manifest(recipe: Recipe, images: Images, encoder: EncoderTeacher) -> Manifest:
    teacher = recipe.teacher
    assert teacher is not None
    return Manifest(
        images=images.digest,
        count=len(images),
        teacher=encoder.digest,
        # The views belong to the store: students with other seeds see the same ones.
        views=recipe.views.model_dump(),
        labels=teacher.labels,
        templates=teacher.templates,
        top_labels=teacher.top_labels,
        width=encoder.width,
        grid=encoder.grid(images.picture(0, View())),
        score=encoder.score,
        scale=encoder.scale,
        bias=encoder.bias,
    )


def _require_same(store: Path, manifest: Manifest) -> bool:
    """Refuse a store of something else; whether there is one of this already."""
    before = read_manifest(store)
    if before is None:
        if store.exists() and any(not _is_own(each) for each in store.iterdir()):
            raise DistillationError(
                f"{store} contains files and is no store of a teacher; name another folder"
            )
        return False
    found = changes(before.model_dump(mode="json"), manifest.model_dump(mode="json"))
    if found:
        raise DistillationError(
            f"{store} holds outputs that were made otherwise: {'; '.join(found)}; name another "
            "`teacher.store`, or remove it"
        )
    return True


def _is_own(path: Path) -> bool:
    """Whether a file is of a store without a manifest, which a pass has left that was killed."""
    return path.name in _OWN or path.suffix == PART_SUFFIX


def _save(file: Path, values: NDArray[Any]) -> None:
    """Write an array as a whole."""
    with whole_file(file) as stream:
        np.save(stream, values)


def _write_shard(
    recipe: Recipe, images: Images, encoder: EncoderTeacher, store: Path, number: int
) -> int:
    first = number * IMAGES_PER_SHARD
    chosen = range(first, min(first + IMAGES_PER_SHARD, len(images)))
    views = [draw_views(0, index, recipe.views) for index in chosen]
    flat = [(index, view) for index, some in zip(chosen, views, strict=True) for view in some]
    said = _look(images, encoder, flat)
    target = shard_folder(store, number)
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    _save(aside / POOLED, _half(said, "pooled"))
    if said[0].patches is not None:
        _save(aside / PATCHES, _half(said, "patches"))
    ids = np.concatenate([each.label_ids for each in said])
    _save(aside / LABEL_IDS, ids.astype(np.int16))
    _save(aside / PROBABILITIES, _half(said, "label_probabilities"))
    content = [[asdict(view) for view in some] for some in views]
    write_bytes(aside / VIEWS, json.dumps(content).encode())
    sync_folder(aside)
    aside.rename(target)
    return len(flat)


def _look(
    images: Images, encoder: EncoderTeacher, flat: Sequence[tuple[int, View]]
) -> list[TaughtBatch]:
    said = []
    with ThreadPoolExecutor(READERS) as pool:
        pictures = pool.map(lambda each: images.picture(*each), flat)
        batch: list[NDArray[np.uint8]] = []
        for place, picture in enumerate(pictures, 1):
            batch.append(picture)
            if len(batch) == BATCH or place == len(flat):
                said.append(_named(images, encoder, batch, flat[place - len(batch) : place]))
                batch = []
    return said


def _named(
    images: Images,
    encoder: EncoderTeacher,
    batch: Sequence[NDArray[np.uint8]],
    places: Sequence[tuple[int, View]],
) -> TaughtBatch:
    try:
        return encoder.look(batch)
    except DistillationError as error:
        names = ", ".join(dict.fromkeys(images.name(index) for index, _ in places))
        raise DistillationError(f"{error} for one of {names}") from error


def _half(said: Sequence[TaughtBatch], name: str) -> NDArray[np.float16]:
    values: NDArray[np.float32] = np.concatenate([getattr(each, name) for each in said])
    return values.astype(np.float16)
