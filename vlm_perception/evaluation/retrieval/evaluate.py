# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How well a bundle's images and captions find each other, by the cosine of their embeddings.

Sigmoid and softmax are monotone in the cosine, so that the order is that of the scores.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from vlm_perception import engines, media, perception
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.json_lines import write_lines
from vlm_perception.datasets.sample import Caption
from vlm_perception.evaluation.code_digest import code_digest
from vlm_perception.evaluation.comparison.bootstrap import REPLICATES
from vlm_perception.evaluation.image_sets import left_out
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.retrieval.figures import (
    DEPTHS,
    I2T,
    T2I,
    Record,
    figures,
)
from vlm_perception.evaluation.retrieval.kept import KeptEmbeddings
from vlm_perception.evaluation.retrieval.ranks import ranks
from vlm_perception.evaluation.retrieval.sets import CaptionedFolder, CaptionedSet, CaptionedStreets
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.media.image_errors import ImageError
from vlm_perception.outputs.own import own_folder
from vlm_perception.perception.embedding_checks import require_finite
from vlm_perception.perception.preprocess import FrameError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.text_tower import TextTower
from vlm_perception.types import Frame

VERB = "evaluate retrieval"
TEXTS_AT_A_TIME = 32
THREADS = 2
IMAGES, TEXTS = "images.f32", "texts.f32"
_MADE_BY = re.compile(r"[0-9a-f]{16}")
WORDS = {I2T: "image to text", T2I: "text to image"}


@dataclass(frozen=True)
class Found:
    """What a bundle makes of a set."""

    records: Sequence[Record]
    """In the order of the set."""
    described: Mapping[str, str]
    """The set: name, version and split."""
    notes: Sequence[str]
    """What is not in the figures, and what they cannot show."""
    file: Path
    """Has the records as JSON lines."""


def run(
    bundle: str, data: Path | None, scenes: int, out: Path, *, skip_broken: bool = False
) -> Report:
    """Evaluate retrieval on a folder of captioned images, or on the road world.

    Args:
        bundle: name or path of the bundle.
        data: the folder; None: the road world.
        scenes: how many of the road world.
        out: folder that keeps the embeddings of this bundle, and the ranks of each image.
        skip_broken: leave out the images of the folder that are missing or broken.

    Raises:
        BundleError: the bundle cannot be used.
        CaptionsError: the captions are missing or damaged.
        FolderImagesError: images are missing or broken and not to be left out.
        EmbeddingError: the bundle gives what is no number.
        OutputError: `out` is another's.
    """
    model = ModelBundle.load(bundle)
    inputs = [model.path, *([] if data is None else [data])]
    with own_folder(out, VERB, inputs) as folder:
        chosen: CaptionedSet = (
            CaptionedStreets(range(EXAM_SEED, EXAM_SEED + scenes))
            if data is None
            else CaptionedFolder(data, skip_broken=skip_broken)
        )
        found = examine(model, chosen, folder)
        place = out / found.file.relative_to(folder)
    result = figures(found.records)
    return Report(
        [_table(result), *found.notes, f"The ranks of each image are in {place}"],
        {
            "retrieval": result,
            "bundle_digest": model.digest,
            "sets": [found.described],
            "broken": left_out(chosen.broken),
        },
    )


def examine(bundle: ModelBundle, chosen: CaptionedSet, folder: Path) -> Found:
    """Embed what the folder does not hold yet, with progress bars, and rank everything.

    At the end it holds the embeddings of this bundle, as this version of the program makes them.

    Args:
        bundle: the model.
        chosen: images with captions.
        folder: keeps the embeddings by bundle and code, and the records.
    """
    encoder = VisionEncoder(bundle, threads=THREADS, temporal=False)
    tower = TextTower.load(bundle, threads=THREADS)
    home = folder / _made_by(bundle, encoder.engine_name)
    home.mkdir(exist_ok=True)
    width = bundle.manifest.vision.embedding_width
    names, rows, captions = _encode_images(chosen, encoder, home / IMAGES, width)
    texts = list(dict.fromkeys(caption.text for each in captions for caption in each))
    embedded = _embed_texts(texts, tower, home / TEXTS, width)
    records = _records(names, rows, captions, embedded)
    described = chosen.described()
    file = home / f"records-{described['version'][:16]}.jsonl"
    write_lines(file, records)
    _remove_others(home)
    notes = chosen.notes()
    cut = sum(not tower.reads_whole(text) for text in texts)
    if cut:
        notes.append(f"{cut} captions are longer than the text tower reads, and were cut")
    shared = _shared(captions)
    if shared:
        notes.append(
            f"{shared} captions have the text of another image's; each is right for its own image "
            "only, and they stand before each other"
        )
    return Found(records, described, notes, file)


def _made_by(bundle: ModelBundle, engine: str) -> str:
    """Names all that embeddings depend on."""
    code = code_digest(engines, media, perception)
    return hashlib.sha256(f"{bundle.digest} {engine} {code}".encode()).hexdigest()[:16]


def _remove_others(home: Path) -> None:
    """Remove embeddings that another bundle, engine or version of the program has made."""
    for images in home.parent.glob(f"*/{IMAGES}"):
        if images.parent != home and _MADE_BY.fullmatch(images.parent.name):
            shutil.rmtree(images.parent)


def _encode_images(
    chosen: CaptionedSet, encoder: VisionEncoder, file: Path, width: int
) -> tuple[list[str], NDArray[np.float32], list[tuple[Caption, ...]]]:
    """Names, embeddings [N, D] and captions of the images that can be encoded."""
    found = []
    with KeptEmbeddings(file, width) as kept:
        for each in track(chosen, "Encoding images", transient=True):
            if each.digest not in kept:
                try:
                    pooled = encoder.encode(Frame(each.read(), 0), 0).pooled
                except (ImageError, FrameError) as error:
                    chosen.leave_out(each.name, error)
                    continue
                require_finite(pooled, f"the embedding of {each.name}")
                kept[each.digest] = pooled / np.linalg.norm(pooled)
            found.append((each.name, kept[each.digest], each.captions))
    names, rows, captions = zip(*found, strict=True)
    return list(names), np.stack(rows), list(captions)


def _embed_texts(
    texts: Sequence[str], tower: TextTower, file: Path, width: int
) -> dict[str, NDArray[np.float32]]:
    with KeptEmbeddings(file, width) as kept:
        new = [text for text in texts if text not in kept]
        for at in track(range(0, len(new), TEXTS_AT_A_TIME), "Embedding captions", transient=True):
            some = new[at : at + TEXTS_AT_A_TIME]
            rows = tower.embed_each(some)
            require_finite(rows, "the embedding of a caption")
            for text, row in zip(some, rows, strict=True):
                kept[text] = row
        return {text: kept[text] for text in texts}


def _records(
    names: Sequence[str],
    rows: NDArray[np.float32],
    captions: Sequence[Sequence[Caption]],
    embedded: Mapping[str, NDArray[np.float32]],
) -> list[Record]:
    """The ranks of each image, with the captions of all languages and of each alone."""
    by_language: dict[str, list[list[str]]] = defaultdict(lambda: [[] for _ in names])
    for image, each in enumerate(captions):
        for caption in each:
            by_language[caption.language][image].append(caption.text)
    every = _ranked(rows, [[caption.text for caption in each] for each in captions], embedded)
    alone = {
        language: every if len(by_language) == 1 else _ranked(rows, texts, embedded)
        for language, texts in sorted(by_language.items())
    }
    return [
        {
            "image": name,
            **every[image],
            "by_language": {
                language: ranked[image] for language, ranked in alone.items() if image in ranked
            },
        }
        for image, name in enumerate(names)
    ]


def _ranked(
    rows: NDArray[np.float32],
    texts: Sequence[Sequence[str]],
    embedded: Mapping[str, NDArray[np.float32]],
) -> dict[int, dict[str, object]]:
    """Ranks both ways of the images that have texts, by their places."""
    images = np.array([image for image, each in enumerate(texts) if each], np.int64)
    counts = [len(texts[image]) for image in images]
    owners = np.repeat(images, counts)
    vectors = np.stack([embedded[text] for image in images for text in texts[image]])
    of_images = ranks(rows[images], vectors, images, owners)
    of_texts = np.split(ranks(vectors, rows[images], owners, images), np.cumsum(counts)[:-1])
    return {
        int(image): {I2T: int(rank), T2I: own.tolist()}
        for image, rank, own in zip(images, of_images, of_texts, strict=True)
    }


def _shared(captions: Sequence[Sequence[Caption]]) -> int:
    """How many captions have the text of another image's."""
    owners = defaultdict(set)
    for image, each in enumerate(captions):
        for caption in each:
            owners[caption.text].add(image)
    return sum(len(owners[caption.text]) > 1 for each in captions for caption in each)


def _table(result: Mapping[str, Any]) -> Table:
    table = figure_table(
        "Retrieval: share of queries that have a right item among the first K",
        *("query and item", "captions", "K", "R@K", "from", "to", "chance", "pool"),
        words=2,
        caption=f"from, to: 95 % of {REPLICATES} draws of the images, with the pool as it is",
    )
    alone = result["by_language"] if len(result["by_language"]) > 1 else {}
    for language, part in {"all": result, **alone}.items():
        for direction, words in WORDS.items():
            found = part[direction]
            for depth in DEPTHS:
                keys = (f"r{depth}{end}" for end in ("", "_low", "_high", "_chance"))
                table.add_row(
                    *((words, language) if depth == DEPTHS[0] else ("", "")),
                    f"{depth}",
                    *(f"{found[key]:.3f}" for key in keys),
                    f"{found['pool']}",
                )
        table.add_section()
    return table
