# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The last step of an export: how far the bundle has drifted, on images that it never saw.

Two references stand beside the bundle, both dense and in FP32: the checkpoint at the bundle's own
geometry, and the checkpoint behind its own processor. The first tells what pruning and
quantization cost, and past the tolerances the bundle is refused. The second also tells what another
crop or shape of the image costs; only a bundle that claims the checkpoint's own geometry is judged
by it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from vlm_perception.bundle import ModelBundle
from vlm_perception.deploy.errors import ExportError
from vlm_perception.deploy.images import images_digest, read_image
from vlm_perception.manifest import Agreement, ValidationSpec
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.perception.language import LanguageModel
from vlm_perception.types import Frame

TOLERANCES = Agreement(
    cosine_mean=0.97, cosine_min=0.85, tag_top1=0.90, attributes=0.90, captions=0.70
)
"""A bundle that agrees less with its reference is refused unless the drift is accepted.

They find an export that went wrong, and let a schedule pass that is known to be good: the road
world's student with a third of its tokens, which loses a few tenths of a point of average
precision, still calls another of several certain labels the likeliest in every fifteenth image.
"""
CAPTION_TOKENS = 48


@dataclass(frozen=True)
class Answers:
    """What a bundle says of a series of images."""

    pooled: NDArray[np.float32]
    """[N, D]"""
    top: NDArray[np.int64]
    """[N], index of the likeliest label."""
    attributes: list[tuple[str, ...]]
    captions: list[list[str]]
    """The words of each."""


def validate(
    made: ModelBundle,
    dense: ModelBundle,
    checkpoint: ModelBundle | None,
    images: Sequence[Path],
    *,
    accept_drift: bool,
) -> ValidationSpec:
    """Compare a finished bundle with its two references.

    Args:
        made: the bundle.
        dense: the checkpoint at the same geometry, with all tokens and heads and in FP32.
        checkpoint: the same behind the checkpoint's own processor, where a graph can follow it.
        images: files that took no part in the calibration.
        accept_drift: keep the bundle whatever is found.

    Raises:
        ExportError: the drift is past the tolerances; the message says where and by how much.
    """
    # A bundle that lost nothing is its own dense reference.
    asked = {bundle.path: bundle for bundle in (made, dense, checkpoint) if bundle is not None}
    said = {path: ask(bundle, images) for path, bundle in asked.items()}
    answers = said[made.path]
    to_dense = agreement(answers, said[dense.path])
    to_checkpoint = None
    if checkpoint is not None:
        to_checkpoint = agreement(answers, said[checkpoint.path])
    faults = exceeded(to_dense, "the dense model")
    if to_checkpoint is not None and made.manifest.image.processor is not None:
        faults += exceeded(to_checkpoint, "the checkpoint")
    if faults and not accept_drift:
        raise ExportError(
            f"the bundle drifts too far from its checkpoint: {'; '.join(faults)}. Prune or "
            "quantize less, calibrate on images like the camera's, or keep it with --accept-drift"
        )
    return ValidationSpec(
        images=len(images),
        images_digest=images_digest(images),
        dense=to_dense,
        checkpoint=to_checkpoint,
        drift_accepted=bool(faults),
    )


def ask(bundle: ModelBundle, images: Sequence[Path]) -> Answers:
    """Put every image through a bundle."""
    threads = os.cpu_count() or 1
    encoder = VisionEncoder(bundle, threads=threads)
    language = None
    if bundle.manifest.language is not None:
        language = LanguageModel(bundle, threads=threads)
        packed = language.pack(bundle.manifest.questions)
        prompt = bundle.manifest.language.caption_prompt
    pooled, top = [], []
    attributes: list[tuple[str, ...]] = []
    captions: list[list[str]] = []
    for path in track(images, "Validating", transient=True):
        embedding = encoder.encode(Frame(read_image(path), 0), 0)
        pooled.append(embedding.pooled)
        top.append(int(encoder.scores(embedding.pooled).argmax()))
        if language is not None:
            prefix = language.prefill(embedding.tokens)
            attributes.append(tuple(each.value for each in language.answer(prefix, packed)))
            caption = language.generate(prefix, prompt, max_tokens=CAPTION_TOKENS)
            captions.append(caption.text.split())
    return Answers(np.stack(pooled), np.array(top, np.int64), attributes, captions)


def agreement(ours: Answers, theirs: Answers) -> Agreement:
    """How near two series of answers are to each other."""
    cosines = (ours.pooled * theirs.pooled).sum(axis=1)
    same = [
        a == b
        for left, right in zip(ours.attributes, theirs.attributes, strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    alike = [
        SequenceMatcher(None, left, right, autojunk=False).ratio()
        for left, right in zip(ours.captions, theirs.captions, strict=True)
    ]
    return Agreement(
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        tag_top1=float((ours.top == theirs.top).mean()),
        attributes=float(np.mean(same)) if same else None,
        captions=float(np.mean(alike)) if alike else None,
    )


def exceeded(found: Agreement, reference: str) -> list[str]:
    """Each figure that lies below its tolerance, in words."""
    faults = []
    for name, least in TOLERANCES.model_dump().items():
        value = getattr(found, name)
        if value is not None and value < least:
            faults.append(f"{name} against {reference} is {value:.4f}, below {least:g}")
    return faults


def as_table(validation: ValidationSpec) -> Table:
    """The figures for people."""
    table = Table(title=f"Validation on {validation.images} images that were not calibrated on")
    for heading in ("against", "cosine, mean", "worst", "top tag", "answers", "captions"):
        table.add_column(heading, justify="left" if heading == "against" else "right")
    rows = {
        "dense FP32, same geometry": validation.dense,
        "checkpoint, own processor": validation.checkpoint,
        "tolerance": TOLERANCES,
    }
    for name, found in rows.items():
        if found is None:
            continue
        shown = ("-" if value is None else f"{value:.4f}" for value in found.model_dump().values())
        table.add_row(name, *shown)
    if validation.drift_accepted:
        table.caption = "below tolerance, accepted with --accept-drift"
    return table
