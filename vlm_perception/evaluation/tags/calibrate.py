# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of a bundle's labels, set from unlabelled recordings of the site."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec, VocabularySpec
from vlm_perception.bundle.write_manifest import write_manifest_content
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.deploy.export.place import require_bundle
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.tags.contact_sheet import Strip, strip, write_sheet
from vlm_perception.evaluation.tags.site_images import Site, look, open_recordings
from vlm_perception.outputs.apart import keep_apart
from vlm_perception.outputs.file import require_free
from vlm_perception.outputs.swap import made_beside, swap
from vlm_perception.perception.vision.tag_thresholds import LEAST_IMAGES, Cut, find_cut
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder
from vlm_perception.replay.recordings.source import Source

VERB = "calibrate tags"
NEGATIVES = ("thing", "place", "picture", "view", "background", "nothing")
"""Prompts that any image fits as well as any other; they go into the bundle's templates."""
SHOWN = 3
"""Unreadable images that are named."""
HIGHEST_SHOWN = 0.9999
"""A higher threshold would be printed as 1."""


class TagCalibrationError(VlmPerceptionError):
    """The recordings do not suffice for thresholds; the message says what is missing."""


def run(bundle: str, recordings: Sequence[Path], out: Path, topic: str | None = None) -> Report:
    """Write a copy of a bundle whose thresholds fit a site, and a contact sheet beside it.

    Args:
        bundle: name or path of the bundle.
        recordings: folders of images, bags and videos of the site.
        out: directory of the new bundle; an existing bundle is replaced.
        topic: of the camera, in bags with several.

    Raises:
        BundleError: the bundle cannot be used.
        ReplayError: a recording cannot be used.
        TagCalibrationError: there are too few images.
        ExportError: `out` exists and is no bundle.
        OutputError: `out` holds what is read, or `sheet_of(out)` is a file of the user's own.
    """
    model = ModelBundle.load(bundle)
    place = keep_apart(out, [model.path, *recordings])
    require_bundle(place)
    require_free(sheet_of(out), VERB)
    site = look(model, open_recordings(recordings, topic), Console(stderr=True))
    report, vocabulary = calibrated(model, site, sheet_of(out), _own(model))
    with made_beside(place, VERB) as scratch:
        made = scratch / "bundle"
        made.mkdir()
        for name in model.manifest.files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.file(name), made / name)
        write_vocabulary(model, vocabulary, made)
        require_bundle(place)
        swap(made, place)
    written = ModelBundle.load(place)
    return Report(
        [*report.parts, f"bundle: {out}  (sha256 {written.digest})"],
        {**(report.figures or {}), "bundle_digest": written.digest},
    )


def calibrate_in_place(model: ModelBundle, sources: Sequence[Source]) -> Report:
    """Give a bundle that was just exported the thresholds of its site, and write a contact sheet.

    Raises:
        TagCalibrationError: there are too few images; the bundle stays as it is.
        OutputError: `sheet_of` the bundle is a file of the user's own.
    """
    site = look(model, sources, Console(stderr=True))
    try:
        report, vocabulary = calibrated(model, site, sheet_of(model.path), _own(model))
    except TagCalibrationError as error:
        raise TagCalibrationError(
            f"the bundle {model.path} is whole, with the thresholds of its vocabulary: {error}"
        ) from error
    write_vocabulary(model, vocabulary, model.path)
    return report


@dataclass(frozen=True)
class Uncut:
    """Labels whose thresholds are to be found."""

    spec: VocabularySpec
    """With the thresholds that hold so far."""
    vocabulary: Vocabulary
    builder: VocabularyBuilder
    verb: str = VERB
    """Whose the contact sheet is."""


def _own(model: ModelBundle) -> Uncut:
    builder = VocabularyBuilder(model)
    return Uncut(model.manifest.vocabulary, builder.build(None, version=1), builder)


def sheet_of(result: Path) -> Path:
    """Where the contact sheet of a bundle, or of a vocabulary, lies: beside it."""
    return result.with_name(f"{result.name}.html")


def calibrated(
    model: ModelBundle, site: Site, sheet: Path, uncut: Uncut
) -> tuple[Report, VocabularySpec]:
    """Find the thresholds, and write the contact sheet.

    Raises:
        TagCalibrationError: there are too few images.
    """
    require_enough(site)
    vocabulary, builder = uncut.vocabulary, uncut.builder
    scores = vocabulary.log_odds(site.pooled)
    contrast = site.pooled @ builder.build(NEGATIVES, version=1).embeddings.T
    recordings = np.array([image.recording for image in site.images])
    cuts = [find_cut(each, contrast.astype(np.float64), recordings) for each in scores.T]
    strips = [
        strip(label, scores[:, column], cut, site)
        for column, (label, cut) in enumerate(zip(vocabulary.labels, cuts, strict=True))
    ]
    write_sheet(sheet, uncut.verb, model.manifest.name, site, strips, len(site.images))
    spec = with_cuts(uncut.spec, cuts)
    parts: list[RenderableType] = [
        _table(strips, spec, len(site.images)),
        *_sentences(site),
        f"Look at {sheet}",
    ]
    figures = {
        "images": len(site.images),
        "unreadable": len(site.broken),
        "same": site.same,
        "labels": {
            each.label: {
                "verdict": each.cut.verdict.value,
                "occurs": each.fires,
                "threshold": fresh.threshold,
            }
            for each, fresh in zip(strips, spec.labels, strict=True)
        },
    }
    return Report(parts, figures), spec


def require_enough(site: Site) -> None:
    """Refuse a site with too few images.

    Raises:
        TagCalibrationError: it has.
    """
    if len(site.images) < LEAST_IMAGES:
        raise TagCalibrationError(
            f"the recordings give {len(site.images)} different images ({len(site.broken)} could "
            f"not be read, {site.same} show the same as others); {LEAST_IMAGES} are the least, "
            "and 500 find labels that are seen on one image in thirty: give longer recordings, or "
            "more of them with further --images"
        )


def with_cuts(vocabulary: VocabularySpec, cuts: Sequence[Cut]) -> VocabularySpec:
    """The same labels with these thresholds; thresholds of regions move by as much as those.

    Args:
        vocabulary: labels and the thresholds that hold so far.
        cuts: one for each label, in log-odds.
    """
    return vocabulary.model_copy(
        update={
            "labels": tuple(
                _with_cut(spec, vocabulary, cut)
                for spec, cut in zip(vocabulary.labels, cuts, strict=True)
            )
        }
    )


def write_vocabulary(model: ModelBundle, vocabulary: VocabularySpec, directory: Path) -> None:
    """Write the manifest of a bundle with another vocabulary."""
    manifest = model.manifest.model_copy(update={"vocabulary": vocabulary})
    write_manifest_content(directory, json.loads(manifest.model_dump_json()))


def _with_cut(spec: LabelSpec, defaults: VocabularySpec, cut: Cut) -> LabelSpec:
    old = defaults.threshold if spec.threshold is None else spec.threshold
    region = spec.region_threshold
    region = defaults.region_threshold if region is None else region
    fresh = {
        "threshold": _probability(cut.at),
        "region_threshold": _probability(_log_odds(region) + cut.at - _log_odds(old)),
    }
    return spec.model_copy(update=fresh)


def _log_odds(probability: float) -> float:
    inner = min(max(probability, 1e-30), 1.0 - 1e-7)
    return math.log(inner / (1.0 - inner))


def _probability(log_odds: float) -> float:
    """To six digits, and up where it is rounded: a threshold above all that was seen stays so."""
    probability = 1.0 / (1.0 + math.exp(-min(max(log_odds, -60.0), 60.0)))
    if probability <= 0.0 or probability >= 1.0:
        return min(max(probability, 0.0), 1.0)
    unit = 10.0 ** (math.floor(math.log10(min(probability, 1.0 - probability))) - 5)
    return min(1.0, math.ceil(probability / unit) * unit)


def _table(strips: Sequence[Strip], vocabulary: VocabularySpec, total: int) -> Table:
    table = Table("label", "occurs in", "threshold", "verdict", title=f"Tags of {total} images")
    for each, spec in zip(strips, vocabulary.labels, strict=True):
        why = f": {each.cut.why}" if each.cut.why else ""
        verdict = f"{each.cut.verdict.value}{why}"
        at = spec.threshold or 0.0
        shown = f"{at:.4g}" if at < HIGHEST_SHOWN else f"> {HIGHEST_SHOWN}"
        table.add_row(Text(each.label), f"{each.fires} of {total}", shown, verdict)
    return table


def _sentences(site: Site) -> list[str]:
    """What became of images that were not used."""
    sentences = list(site.losses)
    if site.same:
        sentences.append(f"{site.same} images show the same as others and were left out")
    if site.broken:
        more = len(site.broken) - SHOWN
        named = "; ".join(site.broken[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        sentences.append(f"{len(site.broken)} images could not be read and were left out: {named}")
    return sentences
