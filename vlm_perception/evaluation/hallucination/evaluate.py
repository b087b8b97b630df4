# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions against what is there: whole, while they are written, cut off, and of coarser images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.json_lines import write_lines
from vlm_perception.datasets.object_mentions import ObjectNames
from vlm_perception.evaluation.comparison.bootstrap import LEAST_IMAGES
from vlm_perception.evaluation.hallucination.describer import Describer, Written
from vlm_perception.evaluation.hallucination.figures import (
    FIGURES,
    FINAL,
    SCALES,
    TEXTS,
    Record,
    compared,
    figures,
)
from vlm_perception.evaluation.hallucination.looked_for import LookedFor
from vlm_perception.evaluation.image_sets import left_out
from vlm_perception.evaluation.journal import Journal, image_key
from vlm_perception.evaluation.labelled_images import (
    LabelledFolder,
    LabelledSet,
    LabelledStreets,
)
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.media.image_errors import ImageError
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.perception.preprocess import FrameError

VERB = "evaluate hallucination"
JOURNAL = "finished.jsonl"
RECORDS = "records.jsonl"
INTERVALS = FIGURES[:2]
"""Those of which the table shows intervals; the figures have all."""


def run(
    bundle: str, data: Path | None, scenes: int, out: Path, *, skip_broken: bool = False
) -> Report:
    """Evaluate captions on a folder of labelled images, or on the road world.

    Args:
        bundle: name or path of the bundle.
        data: the folder; None: the road world.
        scenes: how many of the road world.
        out: folder for the captions and what each of them names.
        skip_broken: leave out the images of the folder that are missing or broken.

    Raises:
        BundleError: the bundle cannot be used, or has no language model.
        ObjectsError: the labels are missing or damaged.
        SynonymsError: the synonyms are damaged.
        FolderImagesError: images are missing or broken and not to be left out.
        JournalError: an interrupted run of another kind is unfinished.
        OutputError: `out` is another's.
    """
    model = ModelBundle.load(bundle)
    chosen: LabelledSet = (
        LabelledStreets(range(EXAM_SEED, EXAM_SEED + scenes))
        if data is None
        else LabelledFolder(data, skip_broken=skip_broken)
    )
    looked_for = LookedFor.of(chosen, data, model.manifest.vocabulary.names)
    names = looked_for.names
    identity = {"bundle": model.digest, "names": looked_for.identity}
    describer = Describer(model, names)
    inputs = [model.path, *([] if data is None else [data])]
    with ResultsFolder(out, VERB, [RECORDS], inputs) as results:
        with Journal(results.work / JOURNAL, identity) as journal:
            records = describe(chosen, names, describer, journal)
        write_lines(results.work / RECORDS, records)
        results.publish()
    result = figures(records)
    return Report(
        [_table(result), *_notes(result, records), *looked_for.notes(), *chosen.notes()],
        {
            "hallucination": result,
            "images": len(records),
            "looked_for": looked_for.as_json(),
            "bundle_digest": model.digest,
            "sets": [chosen.described()],
            "broken": left_out(chosen.broken),
        },
    )


def describe(
    chosen: LabelledSet, names: ObjectNames, describer: Describer, journal: Journal
) -> list[Record]:
    """The records of all images; those that the journal has are not described again.

    What it holds goes by pixels and labels, and serves in the next run whichever other images there
    are.

    Raises:
        FolderImagesError: an image broke since it was tried, and is not to be left out.
    """
    records: list[Record] = []
    for image in track(chosen, "Describing", total=len(chosen), transient=True):
        try:
            pixels = image.read()
            key = image_key(pixels, repr(image.objects))
            if key not in journal.items:
                written = describer.describe(pixels)
                journal.add(key, _record(image.objects, names, written))
        except (ImageError, FrameError) as error:
            chosen.leave_out(image.name, error)
            continue
        records.append({"image": image.name, **journal.items[key]})
    return records


def _record(
    objects: Sequence[str], names: ObjectNames, written: Mapping[str, Written]
) -> dict[str, Any]:
    return {
        "objects": sorted({names.label(each) for each in objects}),
        "texts": {scale: asdict(each) for scale, each in written.items()},
    }


def _table(result: Mapping[str, Any]) -> Table:
    table = figure_table(
        "Objects that captions name and that are not there",
        *("captions", "scale", "CHAIR_s", "CHAIR_i", "recall", "named"),
        words=2,
        caption="scale: of the vision towers' input; CHAIR_s: share of texts with such an object; "
        "CHAIR_i: share of such objects among those named; recall: share of the labelled objects "
        "that are named; named: objects a text; partial: while they are written; cut: by a "
        "deadline, wherever it falls. In parentheses 95 %, by bootstrap over the images",
    )
    for text in TEXTS:
        found = result if text == FINAL else result[text]
        for scale in SCALES:
            cells = [_cell(found, name, scale) for name in FIGURES]
            table.add_row(text if scale == "1" else "", scale, *cells)
        table.add_section()
    return table


def _cell(found: Mapping[str, Mapping[str, float]], name: str, scale: str) -> str:
    if np.isnan(found[name][scale]):
        return "-"
    low, high = found[f"{name}_low"][scale], found[f"{name}_high"][scale]
    interval = f" ({low:.2f}-{high:.2f})" if name in INTERVALS and not np.isnan(low) else ""
    return f"{found[name][scale]:.3f}{interval}"


def _notes(result: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    unfinished = sum(not record["texts"]["1"]["finished"] for record in records)
    return [
        _begins(result["begins_at"], compared(records), len(records)),
        f"{len(records)} images; {unfinished} captions reached the limit of tokens at full size "
        "and count as they were published",
    ]


def _begins(at: str | None, scales: Sequence[str], images: int) -> str:
    """Where invention begins, as far as anybody can say."""
    if not scales:
        return (
            f"Where invention begins cannot be told: captions of fewer than {LEAST_IMAGES} images "
            "name anything at full size and at a smaller scale"
        )
    found = (
        f"Invention begins at {at} of the towers' input: more of what whole captions name is not "
        "there than at full size"
        if at is not None
        else f"Down to {scales[-1]} of the towers' input no more is invented than at full size"
    )
    return f"{found}, as far as {images} images can tell"
