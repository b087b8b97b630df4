# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a site's vocabulary of a list of labels, on any machine that runs the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec
from vlm_perception.bundle.site_vocabulary import MOST_BYTES, Making, as_text, site_vocabulary
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.tags.calibrate import Uncut, calibrated, require_enough, sheet_of
from vlm_perception.evaluation.tags.site_images import look, open_recordings
from vlm_perception.outputs.file import require_free, result_file
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder, VocabularyError

VERB = "adapt classes"


def run(
    bundle: str, labels: Path, out: Path, images: Sequence[Path] = (), topic: str | None = None
) -> Report:
    """Write a vocabulary file and, where there are images, a contact sheet beside it.

    Args:
        bundle: name or path of the bundle.
        labels: file with one label a line.
        out: the vocabulary file.
        images: folders of images, bags and videos of the site, which set the thresholds.
        topic: of the camera, in bags with several.

    Raises:
        BundleError: the bundle cannot be used.
        VocabularyError: a label cannot be used.
        ReplayError: a recording cannot be used.
        TagCalibrationError: there are too few images.
        OutputError: `out` or the contact sheet is a file of the user's own.
    """
    model = ModelBundle.load(bundle)
    names = read_labels(labels)
    for result in (out, *([sheet_of(out)] if images else [])):
        require_free(result, VERB)
    builder = VocabularyBuilder(model)
    specs = builder.specs(names)
    require_different_tokens(model, specs)
    vocabulary = builder.build(names, version=1)
    count, parts, figures = 0, list[RenderableType](), dict[str, object]()
    if images:
        site = look(model, open_recordings(images, topic), Console(stderr=True))
        require_enough(site)
        spec = model.manifest.vocabulary.model_copy(update={"labels": tuple(specs)})
        uncut = Uncut(spec, vocabulary, builder, VERB)
        found, spec = calibrated(model, site, sheet_of(out), uncut)
        count, specs = len(site.images), list(spec.labels)
        parts, figures = [*found.parts], dict(found.figures or {})
    made = site_vocabulary(model, specs, vocabulary.embeddings, Making(prompts=None, images=count))
    with result_file(out, VERB) as part:
        part.write_text(as_text(made), encoding="utf-8")
    parts.append(f"{len(specs)} labels for {model.manifest.name}: {out}  (sha256 {made.digest})")
    return Report(parts, {**figures, "vocabulary_digest": made.digest})


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


def require_different_tokens(model: ModelBundle, specs: Sequence[LabelSpec]) -> None:
    """Refuse labels that the text model cannot tell apart.

    Raises:
        VocabularyError: two are the same tokens.
    """
    tokenizer = TextTokenizer(model.file(model.manifest.text.tokenizer))
    seen: dict[tuple[int, ...], str] = {}
    for spec in specs:
        ids = tuple(tokenizer.encode(spec.label))
        if not ids:
            raise VocabularyError(
                f"the label {spec.label!r} has no token that the text model knows; use other words"
            )
        if ids in seen:
            raise VocabularyError(
                f"the labels {seen[ids]!r} and {spec.label!r} are the same tokens to the text "
                "model; give one of them, or other words"
            )
        seen[ids] = spec.label
