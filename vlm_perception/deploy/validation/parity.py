# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The last step of an export: the bundle's accuracy drop, on images that it never saw.

The bundle is compared with two references: the checkpoint dense and in FP32 at the bundle's own
geometry, and transformers itself using the checkpoint's own processor. The first shows what pruning
and quantization cost; beyond the tolerances the bundle is refused. The second also shows what
another crop or shape of the image costs; only a bundle that claims the checkpoint's own geometry is
refused for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import Agreement, ValidationSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.validation.images import images_digest
from vlm_perception.deploy.validation.model_outputs import Answers, BundleModel, Model, ask

TIE = 0.1
"""Labels and answers whose probabilities differ by no more than this are ties."""
TOLERANCES = {
    "cosine_mean": 0.98,
    "cosine_min": 0.85,
    "tag_top1_tied": 0.98,
    "tags_f1": 0.95,
    "attributes_tied": 0.94,
    "captions": 0.80,
    "tower_cosine_mean": 0.95,
    "tower_cosine_min": 0.85,
}
"""A bundle that agrees less with its reference is refused unless the accuracy drop is accepted.

An image of a street has several labels that are all certain, and which of 0.998 and 0.999 is the
larger says nothing about a model: on the road world's student every change of the likeliest label
was such a tie. So the likeliest label and each answer count as the same where the reference itself
rates what the bundle chose within `TIE` of its own choice; the plain shares are measured, shown and
stored, but refuse nothing. In exchange every label that appears or disappears counts in `tags_f1`,
whatever its rank. The worst cosine is that of a single image and only finds a bundle that is broken
for some of them. The tokens of the language model's own tower are many, and no single one is an
answer: they may differ more than the embedding.
"""


def validate(
    made: ModelBundle,
    dense: ModelBundle,
    checkpoint: Callable[[], Model] | None,
    images: Sequence[Path],
    *,
    accept_drop: bool,
) -> ValidationSpec:
    """Compare a finished bundle with its two references.

    Args:
        made: the bundle.
        dense: the checkpoint at the same geometry, with all tokens and heads and in FP32.
        checkpoint: loads transformers using the checkpoint's own processor, if that outputs images
            of one size.
        images: files that were not used for calibration.
        accept_drop: keep the bundle whatever is found.

    Raises:
        ExportError: the accuracy drop exceeds the tolerances; the message says where and by how
            much.
    """
    answers = ask(BundleModel(made), images)
    # A bundle that lost nothing is its own dense reference.
    lossless = dense.path == made.path
    wanted = answers if lossless else ask(BundleModel(dense), images, "Validating, dense")
    to_dense = agreement(answers, wanted)
    faults = exceeded(to_dense, "the dense model")
    to_checkpoint = None
    if checkpoint is not None:
        theirs = ask(checkpoint(), images, "Validating, transformers")
        to_checkpoint = agreement(answers, theirs)
        if made.manifest.image.processor is not None:
            faults += exceeded(to_checkpoint, "the checkpoint")
    if faults and not accept_drop:
        raise ExportError(
            f"the bundle's accuracy drop is too large: {'; '.join(faults)}. Prune or quantize "
            "less, calibrate on images like the camera's, or keep it with --accept-drop"
        )
    return ValidationSpec(
        images=len(images),
        images_digest=images_digest(images),
        dense=to_dense,
        checkpoint=to_checkpoint,
        drift_accepted=bool(faults),
    )


def agreement(ours: Answers, theirs: Answers) -> Agreement:
    """How near a series of answers is to a reference's."""
    cosines = (ours.pooled * theirs.pooled).sum(axis=1)
    tops = zip(ours.scores, theirs.scores, strict=True)
    tag_gaps = np.array([gap(reference, int(mine.argmax())) for mine, reference in tops])
    answers = zip(ours.attributes, theirs.attributes, strict=True)
    pairs = [pair for left, right in answers for pair in zip(left, right, strict=True)]
    gaps = np.array([gap(b.probabilities, b.choices.index(a.value)) for a, b in pairs])
    alike = [
        SequenceMatcher(None, left.split(), right.split(), autojunk=False).ratio()
        for left, right in zip(ours.captions, theirs.captions, strict=True)
        if left or right
    ]
    towers = [
        float((one.astype(np.float32) * other).sum(axis=1).mean())
        for one, other in zip(ours.seen, theirs.seen, strict=True)
        if one is not None and other is not None
    ]
    labels = int(ours.holds.sum() + theirs.holds.sum())
    return Agreement(
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        tag_top1=float((tag_gaps == 0).mean()),
        tag_top1_tied=float((tag_gaps <= TIE).mean()),
        tags_f1=2 * int((ours.holds & theirs.holds).sum()) / labels if labels else None,
        attributes=float((gaps == 0).mean()) if pairs else None,
        attributes_tied=float((gaps <= TIE).mean()) if pairs else None,
        captions=float(np.mean(alike)) if alike else None,
        tower_cosine_mean=float(np.mean(towers)) if towers else None,
        tower_cosine_min=min(towers, default=None),
    )


def gap(reference: Sequence[float] | NDArray[np.float32], chosen: int) -> float:
    """By how much a reference rates its own choice as more likely than another one."""
    return float(max(reference) - reference[chosen])


def exceeded(found: Agreement, reference: str) -> list[str]:
    """A sentence for each figure that is below its tolerance."""
    faults = []
    for name, least in TOLERANCES.items():
        value = getattr(found, name)
        if value is not None and value < least:
            faults.append(f"{name} compared with {reference} is {value:.4f}, below {least:g}")
    return faults


FIGURES = {
    "cosine_mean": "cosine of the embedding, mean",
    "cosine_min": "the same, worst image",
    "tag_top1": "same likeliest label",
    "tag_top1_tied": "the same, or tied with it",
    "tags_f1": "labels above their thresholds, F1",
    "attributes": "same answers",
    "attributes_tied": "the same, or tied with it",
    "captions": "captions, likeness",
    "tower_cosine_mean": "cosine of the language model's own tower, mean",
    "tower_cosine_min": "the same, worst image",
}


def as_table(validation: ValidationSpec) -> Table:
    """The figures for people."""
    table = Table(
        "against",
        title=f"Validation on {validation.images} images that were not used for calibration",
    )
    columns: dict[str, Mapping[str, float | None]] = {
        "dense FP32,\nsame geometry": validation.dense.model_dump(),
    }
    if validation.checkpoint is not None:
        columns["transformers,\nown processor"] = validation.checkpoint.model_dump()
    columns["least"] = TOLERANCES
    for heading in columns:
        table.add_column(heading, justify="right")
    for figure, words in FIGURES.items():
        values = (found.get(figure) for found in columns.values())
        table.add_row(words, *("-" if value is None else f"{value:.4f}" for value in values))
    if validation.drift_accepted:
        table.caption = "below the minimum, accepted with --accept-drop"
    return table
