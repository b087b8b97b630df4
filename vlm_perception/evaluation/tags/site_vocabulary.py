# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a site's vocabulary of a list of labels, on any machine that runs the bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec
from vlm_perception.bundle.site_vocabulary import (
    MOST_BYTES,
    AdaptedPrompts,
    Making,
    as_text,
    site_vocabulary,
)
from vlm_perception.common.machine import cpu_count
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.tags.calibrate import Uncut, calibrated, require_enough, sheet_of
from vlm_perception.evaluation.tags.site_images import look, open_recordings
from vlm_perception.outputs.file import require_free, result_file
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.learned_prompts import read_prompts
from vlm_perception.perception.vision.prompt_adaptation import AdaptationSettings, PromptAdapter
from vlm_perception.perception.vision.prompt_sequences import require_different
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder, VocabularyError

VERB = "adapt classes"


@dataclass(frozen=True)
class Prompts:
    """Learned prompts, and how they are adapted."""

    folder: Path
    settings: AdaptationSettings


def run(
    bundle: str,
    labels: Path,
    out: Path,
    images: Sequence[Path] = (),
    topic: str | None = None,
    prompts: Prompts | None = None,
) -> Report:
    """Write a vocabulary file and, where there are images, a contact sheet beside it.

    Args:
        bundle: name or path of the bundle.
        labels: file with one label a line.
        out: the vocabulary file.
        images: folders of images, bags and videos of the site, which set the thresholds.
        topic: of the camera, in bags with several.
        prompts: what the labels are embedded with; None: hand-written prompts.

    Raises:
        BundleError: the bundle cannot be used.
        VocabularyError: a label cannot be used.
        PromptsError: the learned prompts cannot be used.
        ReplayError: a recording cannot be used.
        TagCalibrationError: there are too few images.
        OutputError: `out` or the contact sheet is a file of the user's own.
    """
    model = ModelBundle.load(bundle)
    names = read_labels(labels)
    for result in (out, *([sheet_of(out)] if images else [])):
        require_free(result, VERB)
    builder = VocabularyBuilder(model)
    names = [spec.label for spec in builder.specs(names)]
    require_different(TextTokenizer(model.file(model.manifest.text.tokenizer)), names)
    found = _written(builder, names) if prompts is None else _adapted(model, prompts, names)
    specs, count, parts, figures = found.specs, 0, [*found.said], dict(found.figures)
    if images:
        site = look(model, open_recordings(images, topic), Console(stderr=True))
        require_enough(site)
        spec = model.manifest.vocabulary.model_copy(update={"labels": tuple(specs)})
        vocabulary = builder.of_rows(specs, found.rows, version=1)
        uncut = Uncut(spec, vocabulary, builder, VERB)
        report, spec = calibrated(model, site, sheet_of(out), uncut)
        count, specs = len(site.images), spec.labels
        parts, figures = [*parts, *report.parts], {**figures, **(report.figures or {})}
    made = site_vocabulary(model, specs, found.rows, Making(prompts=found.prompts, images=count))
    with result_file(out, VERB) as part:
        part.write_text(as_text(made), encoding="utf-8")
    parts.append(f"{len(specs)} labels for {model.manifest.name}: {out}  (sha256 {made.digest})")
    return Report(parts, {**figures, "vocabulary_digest": made.digest})


@dataclass(frozen=True)
class _Embedded:
    """Labels with their embeddings."""

    specs: Sequence[LabelSpec]
    rows: NDArray[np.float32]
    prompts: AdaptedPrompts | None = None
    said: Sequence[RenderableType] = ()
    figures: Mapping[str, object] = field(default_factory=dict)


def _written(builder: VocabularyBuilder, names: Sequence[str]) -> _Embedded:
    """By the bundle's hand-written prompts."""
    return _Embedded(builder.specs(names), builder.build(names, version=1).embeddings)


def _adapted(model: ModelBundle, prompts: Prompts, names: Sequence[str]) -> _Embedded:
    """By learned prompts that are adapted to these labels."""
    learned, settings = read_prompts(prompts.folder), prompts.settings
    adapter = PromptAdapter(model, learned, threads=cpu_count())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Adapting prompts", total=settings.steps)
        began = time.monotonic()
        found = adapter.adapt(names, settings, lambda step: progress.update(bar, completed=step))
        seconds = time.monotonic() - began
    made = AdaptedPrompts(
        digest=learned.digest,
        loss_before=found.loss_before,
        loss_after=found.loss_after,
        **asdict(settings),
    )
    # Thresholds and calibration of the bundle's labels were fitted to its own prompts.
    bias = 0.0 if learned.spec.bias is None else learned.spec.bias - model.manifest.text.logit_bias
    specs = [LabelSpec(label=name, calibration_bias=bias) for name in names]
    said = (
        f"{settings.steps} steps in {seconds:.1f} s; the contrast of the labels went from "
        f"{found.loss_before:.4f} to {found.loss_after:.4f}"
    )
    figures = {
        "steps": settings.steps,
        "seconds": seconds,
        "loss_before": found.loss_before,
        "loss_after": found.loss_after,
    }
    return _Embedded(specs, found.embeddings, made, [said], figures)


def read_labels(file: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        VocabularyError: it cannot be read, is no text, or holds no label.
    """
    try:
        with open_ordinary(file) as stream:
            content = stream.read(MOST_BYTES)
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise VocabularyError(
            f"the labels {file} cannot be read ({error.strerror or error}); give a text file with "
            "one label a line"
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"the labels {file} are not UTF-8 text; save them as UTF-8"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise VocabularyError(f"{file} holds no label; write one a line")
    return names
