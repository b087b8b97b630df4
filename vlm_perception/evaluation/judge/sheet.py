# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A page on which people rate texts without knowing who wrote them, and the key to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from rich.progress import track

from vlm_perception.evaluation.judge.figures import SCORES, Kind
from vlm_perception.evaluation.judge.sets import AskedSet, asked_set
from vlm_perception.evaluation.judge.texts import (
    VERB,
    Written,
    content_digest,
    cut_notes,
    is_equal,
    load,
    write_all,
)
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.outputs.file import require_free, result_file, write_whole
from vlm_perception.outputs.own import own_folder
from vlm_perception.outputs.page import page_template
from vlm_perception.perception.language.served.sent_image import data_url

SHEET_VERB = "evaluate judge --export"
IMAGE_SIDE, JPEG_QUALITY = 640, 80


class SheetItem(BaseModel):
    """What a number on a sheet stands for."""

    image: str
    question: str
    language: str
    swapped: bool
    """Whether the text of the second bundle is the left one."""


class SheetKey(BaseModel):
    """What a sheet hides from its raters; it lies in the folder of the results."""

    sheet: str
    """The digest that the page and the files of its raters carry."""
    kind: Kind
    bundles: list[str]
    """Names."""
    digests: list[str]
    """Of the bundles."""
    described: dict[str, str]
    """The images: name, version and split."""
    items: list[SheetItem]
    """In the order of the page, which numbers them from 1."""
    equal: list[SheetItem]
    """Pairs of equal texts, which are not on the page."""


@dataclass(frozen=True)
class _Shown:
    """An item as the page has it."""

    image: str
    question: str
    language: str
    texts: Sequence[str]


def key_file(folder: Path, sheet: str) -> Path:
    """Where the key to a sheet lies in the folder of the results."""
    return folder / f"sheet-{sheet[:12]}.json"


def run(
    bundle: str,
    against: str | None,
    data: Path | None,
    scenes: int,
    page: Path,
    out: Path,
    *,
    skip_broken: bool = False,
) -> Report:
    """Write a page on which people rate the texts of a bundle, or compare them with another's.

    Args:
        bundle: name or path of the bundle.
        against: of the other one; None: the texts are rated one by one.
        data: a folder of images; None: the road world.
        scenes: how many of the road world.
        page: the file to write.
        out: folder for the texts, and for the key that `ratings.run` needs.
        skip_broken: leave out the images of the folder that are missing or broken.

    Raises:
        BundleError: a bundle cannot be used.
        JudgeError: there is nothing to rate.
        QuestionsError: the questions are damaged.
        FolderImagesError: images are missing or broken and not to be left out.
        OutputError: `out` or `page` is another's.
    """
    require_free(page, SHEET_VERB)
    bundles = load([bundle, *([] if against is None else [against])])
    inputs = [each.path for each in bundles] + ([] if data is None else [data])
    with own_folder(out, VERB, inputs) as folder:
        chosen = asked_set(data, scenes, EXAM_SEED, skip_broken=skip_broken)
        written = write_all(bundles, chosen, folder)
        described = chosen.described()
        shown, items = _arrange(chosen, written)
        key = SheetKey(
            sheet=_digest(shown),
            kind=Kind.SCORES if against is None else Kind.PAIRS,
            bundles=[each.manifest.name for each in bundles],
            digests=[each.digest for each in bundles],
            described=described,
            items=items,
            equal=[SheetItem(**each.about, swapped=False) for each in written if is_equal(each)],
        )
        write_whole(key_file(folder, key.sheet), key.model_dump_json(indent=2) + "\n")
        _write_page(page, key, shown)
    return Report([*_notes(key, page, out), *cut_notes(bundles, written), *chosen.notes()])


def _arrange(chosen: AskedSet, written: Sequence[Written]) -> tuple[list[_Shown], list[SheetItem]]:
    """Order and sides by chance, the same for the same texts; each bundle is left as often."""
    rng = np.random.default_rng(int(content_digest(written)[:16], 16))
    differing = [each for each in written if not is_equal(each)]
    pairs = len(differing[0].texts) > 1
    swapped = rng.permutation(np.arange(len(differing)) % 2 == 1) & pairs
    images = {
        asked.key: data_url(asked.read(), IMAGE_SIDE, JPEG_QUALITY)
        for asked, each in zip(
            track(chosen, "Writing the page", total=len(chosen), transient=True),
            written,
            strict=True,
        )
        if not is_equal(each)
    }
    shown, items = [], []
    for at in rng.permutation(len(differing)):
        each = differing[at]
        texts = each.texts[::-1] if swapped[at] else each.texts
        shown.append(_Shown(images[each.key], each.question, each.language, texts))
        items.append(SheetItem(**each.about, swapped=bool(swapped[at])))
    return shown, items


def _digest(shown: Sequence[_Shown]) -> str:
    content = json.dumps([[each.image, each.question, *each.texts] for each in shown])
    return hashlib.sha256(content.encode()).hexdigest()


def _write_page(file: Path, key: SheetKey, shown: Sequence[_Shown]) -> None:
    template = page_template("vlm_perception.evaluation.judge", "sheet.html.j2")
    page = template.render(
        sheet=key.sheet,
        items=shown,
        choices=[("left", "Left"), ("equal", "Equal"), ("right", "Right")]
        if key.kind is Kind.PAIRS
        else [(str(score), str(score)) for score in SCORES],
        pairs=key.kind is Kind.PAIRS,
    )
    with result_file(file, SHEET_VERB) as part:
        part.write_text(page, encoding="utf-8")


def _notes(key: SheetKey, page: Path, out: Path) -> list[str]:
    size = page.stat().st_size / 1e6
    first = f"Written to {page}: {len(key.items)} items, {size:.1f} MB"
    if key.equal:
        first += f"; {len(key.equal)} pairs of equal texts are left out and count as ties"
    return [
        first,
        f"Give the page alone to the raters; {key_file(out, key.sheet)} says who wrote what, and "
        "--import needs it",
    ]
