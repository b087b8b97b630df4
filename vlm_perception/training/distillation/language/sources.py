# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model learns from: pictures for the tower, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from vlm_perception.datasets.roadworld.appearance import Appearance
from vlm_perception.datasets.roadworld.files.shards import (
    SCENES_PER_SHARD,
    Shard,
    ShardSpec,
    open_shard,
    render_shards,
)
from vlm_perception.outputs.console import say
from vlm_perception.training.distillation.examples import Images, View, draw_views
from vlm_perception.training.distillation.images.open import open_images
from vlm_perception.training.distillation.images.road_world import appearance_of, learned, parts
from vlm_perception.training.distillation.language.dialogues import (
    TRUE,
    Dialogues,
    balancing_weights,
)
from vlm_perception.training.distillation.language.features import CHUNK, chunks_of
from vlm_perception.training.distillation.language.model import Reader
from vlm_perception.training.distillation.language.scenes import Known, WorldTruth
from vlm_perception.training.distillation.language.taught import (
    ImageCaptions,
    Place,
    TaughtAnswers,
    TaughtCaptions,
    TaughtPatches,
)
from vlm_perception.training.distillation.learned import Learned
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    Language,
    Recipe,
    RoadWorldImages,
)
from vlm_perception.training.distillation.teacher.read import taught_by, words_of
from vlm_perception.training.roadworld_words import INPUT_SIZE

OF_WORLD = frozenset({*TRUE, "patches"})
"""Losses on the truth of the road world. `caption` is there for other images, too, by their own
captions."""
BY_TEACHER = frozenset({"taught_caption", "taught_answers", "taught_patches"})
READERS = 2


@dataclass(frozen=True)
class Sources:
    """Scenes to learn from."""

    seen: str
    """What they are; the same pictures for the tower have the same."""
    images: int
    """How many."""
    count: int
    """Of scenes: images, or views of them."""
    pictures: Callable[[], Iterable[NDArray[np.uint8]]]
    """In chunks [n, H, W, 3], as the tower sees them."""
    known: Sequence[Known]
    dialogues: Dialogues
    usable: NDArray[np.int64]
    """Scenes of which something is known."""
    learned: Learned
    """What whoever learns from them has learned from."""
    taught_width: int
    """Of a teacher's embeddings of patches; 0: without."""


def check(run: Run) -> None:
    """Refuse losses about what is not known, and batches that are larger than the set.

    Raises:
        DistillationError: there is one.
        VlmPerceptionError: the images cannot be listed.
    """
    recipe, language = run.recipe, run.recipe.language
    assert language is not None
    for name in language.losses:
        if missing := _missing(name, recipe):
            raise DistillationError(f"the loss {name} needs {missing}, or leave the loss out")
    spec = language.images or recipe.images
    if isinstance(spec, RoadWorldImages):
        count = spec.count
    else:
        images = open_images(spec, run.home, recipe.languages, run.out)
        count = len(images)
        if "caption" in language.losses and not images.captioned:
            raise DistillationError(
                "the loss caption needs captions, which these images have not; add captions.jsonl, "
                "take the teacher's (taught_caption), or leave the loss out"
            )
    language.training.require_batch(count)


def _missing(name: str, recipe: Recipe) -> str:
    """What a loss needs that a recipe does not give; empty: nothing."""
    teacher = recipe.teacher
    if name in OF_WORLD:
        return _missing_truth(name, recipe)
    if name == "taught_patches":
        if teacher is None or teacher.encoder is None:
            return "a teacher's dual encoder: name it in `teacher.encoder`"
        return "" if teacher.patches else "the teacher's patches: set `teacher.patches`"
    if teacher is None or teacher.language is None:
        return "a teacher's language model: name it in `teacher.language`"
    if name == "taught_answers" and not teacher.questions:
        return "typed questions: name them in `teacher.questions`"
    return ""


def _missing_truth(name: str, recipe: Recipe) -> str:
    own = None if recipe.language is None else recipe.language.images
    if (own or recipe.images).kind != "road-world":
        return "" if name == "caption" else "the truth of rendered images: take the road world's"
    if _asks_teacher(recipe) and (recipe.views.least_scale < 1 or recipe.views.mirror):
        return (
            "whole scenes, and the teacher has seen parts of them: set `views.least_scale` to 1 "
            "and `views.mirror` to false"
        )
    return ""


def _asks_teacher(recipe: Recipe) -> bool:
    return recipe.language is not None and bool(BY_TEACHER & recipe.language.losses.keys())


def open_sources(run: Run, reader: Reader, size: tuple[int, int], cache: Path) -> Sources:
    """The scenes of a recipe.

    Where the road world's truth is learned, they are its scenes as a whole, and else the views of
    the images, with captions of their own and with what the teacher says.

    Args:
        run: has a language model.
        reader: of the pictures.
        size: width and height of what its tower sees.
        cache: keeps rendered scenes.

    Raises:
        DistillationError: what the teacher said is missing, or nothing can be learned of it.
        VlmPerceptionError: the images cannot be listed.
    """
    recipe, language = run.recipe, run.recipe.language
    assert language is not None
    spec = language.images or recipe.images
    if isinstance(spec, RoadWorldImages) and OF_WORLD & language.losses.keys():
        return _of_world(run, language, spec, reader, size, cache)
    images = open_images(spec, run.home, recipe.languages, run.out)
    return _of_views(run, language, images, reader, size)


def _of_views(
    run: Run, language: Language, images: Images, reader: Reader, size: tuple[int, int]
) -> Sources:
    views = [draw_views(0, index, run.recipe.views) for index in range(len(images))]
    flat = [(index, view) for index, some in enumerate(views) for view in some]
    places = [(index, number) for index, some in enumerate(views) for number in range(len(some))]
    dialogues = Dialogues(reader.tokenizer, [], (), reader.prompt)
    known: list[Known] = []
    if "caption" in language.losses:
        known.append(
            ImageCaptions(places, lambda i, view: images.captions(i, views[i][view]), dialogues)
        )
    taught, width = _by_teacher(
        run, language, images, [[each] for each in places], reader, dialogues
    )
    known += taught
    dialogues.length = max(1, sum(each.room for each in known))
    usable = [scene for scene in range(len(flat)) if any(each.says(scene) for each in known)]
    if not usable:
        raise DistillationError(
            "no view of the images has words to be learned: captions of mirrored views need a "
            "language that is known; set `views.mirror` to false, or add captions"
        )
    return Sources(
        f"{images.digest} {run.recipe.views.model_dump_json()}",
        len(images),
        len(flat),
        lambda: _pictures(images, flat, size),
        known,
        dialogues,
        np.array(usable),
        images.learned,
        width,
    )


def _of_world(
    run: Run,
    language: Language,
    images: RoadWorldImages,
    reader: Reader,
    size: tuple[int, int],
    cache: Path,
) -> Sources:
    looks = appearance_of(images, run.home)
    shards = _shards(images, looks, size, reader.grid, cache)
    groups = [number for number, name in enumerate(TRUE) if name in language.losses]
    dialogues = Dialogues(reader.tokenizer, balancing_weights(shards), groups, reader.prompt)
    known: list[Known] = [WorldTruth(shards, dialogues)]
    width = 0
    if _asks_teacher(run.recipe):
        opened = open_images(images, run.home, run.recipe.languages, run.out)
        views = [[(i, view) for view in range(run.recipe.views.count)] for i in range(len(opened))]
        taught, width = _by_teacher(run, language, opened, views, reader, dialogues)
        known += taught
        dialogues.length = sum(each.room for each in known)
    return Sources(
        repr([(len(shard.labels), str(shard.truths[0])) for shard in shards]) + looks.name,
        images.count,
        images.count,
        lambda: chunks_of(shards),
        known,
        dialogues,
        np.arange(images.count),
        learned(images),
        width,
    )


def _by_teacher(
    run: Run,
    language: Language,
    images: Images,
    views: Sequence[Sequence[Place]],
    reader: Reader,
    dialogues: Dialogues,
) -> tuple[list[Known], int]:
    """What the teacher says of the views of each scene, and the width of its patches."""
    known: list[Known] = []
    teacher, width = run.recipe.teacher, 0
    if {"taught_caption", "taught_answers"} & language.losses.keys():
        assert teacher is not None
        words = words_of(run, images)
        if "taught_caption" in language.losses:
            captions = TaughtCaptions(views, words, dialogues, reader.tokenizer)
            known.append(captions)
            say(
                Console(stderr=True),
                f"teacher: {captions.usable} of {len(words)} captions are whole, and "
                f"{captions.soft} have probabilities of the student's tokens",
            )
        if "taught_answers" in language.losses:
            known.append(TaughtAnswers(views, words, dialogues, teacher.questions))
    if "taught_patches" in language.losses:
        taught = taught_by(run, images)
        known.append(TaughtPatches(views, taught, reader.grid))
        width = taught.width
    return known, width


def _pictures(
    images: Images, views: Sequence[tuple[int, View]], size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Views as the tower sees them."""
    with ThreadPoolExecutor(READERS) as pool:
        for first in range(0, len(views), CHUNK):
            some = views[first : first + CHUNK]
            found = pool.map(lambda v: images.example(v[0], v[1], size, (1, 1)).image, some)
            yield np.stack(list(found))


def _shards(
    images: RoadWorldImages,
    looks: Appearance,
    size: tuple[int, int],
    grid: tuple[int, int],
    cache: Path,
) -> list[Shard]:
    """Scenes of the road world, rendered where they are not in `cache` yet."""
    specs = [
        ShardSpec(first, count, small, grid, looks)
        for first, count, small in parts(images, SCENES_PER_SHARD)
    ]
    name = "shards" if size == INPUT_SIZE else f"shards-{size[0]}x{size[1]}"
    folder = cache / name
    missing = [spec for spec in specs if not (folder / spec.name).is_dir()]
    if missing:
        rendered = render_shards(missing, folder, partial(_shrink, size=size), os.cpu_count() or 1)
        for _ in track(rendered, "Rendering scenes", total=len(missing)):
            pass
    return [open_shard(folder / spec.name) for spec in specs]


def _shrink(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
