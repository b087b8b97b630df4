# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a checkpoint directory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from vlm_perception.bundle.bundle import MANIFEST_NAME, ModelBundle
from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.bundle.write_manifest import write_manifest_content
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec, load_spec
from vlm_perception.deploy.checkpoints.image_processor import load_processor, processor_spec
from vlm_perception.deploy.checkpoints.load import Checkpoint, load_checkpoint
from vlm_perception.deploy.export.input_geometry import grid_of_processor, tiles_wish
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.place import require_bundle
from vlm_perception.deploy.export.prompt import choose_prompt
from vlm_perception.deploy.export.write_bundle import write_bundle
from vlm_perception.deploy.validation.images import ImageSets, split_images
from vlm_perception.deploy.validation.parity import validate
from vlm_perception.deploy.validation.transformers_reference import TransformersModel
from vlm_perception.outputs.apart import keep_apart
from vlm_perception.outputs.swap import made_beside, swap
from vlm_perception.perception.language.model import LanguageModel

_log = logging.getLogger(__name__)


def export_bundle(
    checkpoint: Path,
    out: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> ModelBundle:
    """Make a bundle and check it against the checkpoint's own outputs.

    Args:
        checkpoint: directory with `dual/`, perhaps `vlm/`, and bundle.yaml.
        out: the bundle's directory; an existing bundle is replaced.
        options: how the networks are laid out, thinned out and quantized.

    Returns:
        The finished bundle, loaded.

    Raises:
        ExportError: the checkpoint cannot become a bundle, or `out` cannot be written.
        OutputError: `out` contains the input, or is inside it, or another export is writing there.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    spec = load_spec(checkpoint)
    # dual/ and vlm/ may be links.
    read = [checkpoint, checkpoint / "dual", checkpoint / "vlm"]
    read += [options.calibration] if options.calibration is not None else []
    place = keep_apart(out, read)
    require_bundle(place)
    card = _read_card(checkpoint, spec)
    images = None if options.calibration is None else split_images(options.calibration)
    source = load_checkpoint(checkpoint, spec.vision_tower, tiles_wish(spec, options), spec.bridge)
    if source.vlm is not None:
        caption = choose_prompt(spec.caption, source)
        spec = spec.model_copy(update={"caption": caption})
    own_size = _processors_fit(source)
    if images is not None and not own_size:
        _log.warning(
            "not compared with the checkpoint's own processor: it tiles images or outputs several "
            "sizes"
        )
    if options.keep is not None and source.projector_needs_grid:
        raise ExportError(
            f"{checkpoint / 'vlm'} merges neighbouring tokens (pixel shuffle or averages), so none "
            "can be pruned before it; export it without --keep, or with a bridge that reads single "
            "tokens (mlp, q-former), or set vision_tower: own in bundle.yaml"
        )
    try:
        with made_beside(place, "export") as scratch:
            export = _Export(spec, card, scratch, images)
            made = export.make("bundle", source, options)
            if images is not None and options.validate:
                # The first was used up: two at a time may not fit into memory.
                chosen = "own" if source.language_tower is not None else spec.vision_tower
                wish = tiles_wish(spec, options)
                again = partial(load_checkpoint, checkpoint, chosen, wish, spec.bridge)
                _validate(made, again, export, options, images, own_size=own_size)
            made.path.chmod(0o755)
            require_bundle(place)
            swap(made.path, place)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    except ValidationError as error:
        raise ExportError(
            f"{checkpoint} contains values that a bundle cannot hold: {describe_errors(error)}"
        ) from error
    if images is not None and images.skipped:
        _log.warning(
            "%d images of %s could not be read and were left out; each is named above",
            images.skipped,
            options.calibration,
        )
    return ModelBundle.load(out)


@dataclass(frozen=True)
class _Export:
    """What bundles are made with, in a folder that nobody else looks into."""

    spec: BundleSpec
    card: str
    scratch: Path
    images: ImageSets | None

    def make(self, name: str, source: Checkpoint, options: ExportOptions) -> ModelBundle:
        """Make a bundle of a checkpoint, which is used up, and hold it against what torch gave."""
        directory = self.scratch / name
        directory.mkdir()
        write_bundle(directory, source, self.spec, self.card, options, self.images)
        return _finish(directory)


def _processors_fit(source: Checkpoint) -> bool:
    """Whether the checkpoint's own processors make images of one size.

    Raises:
        ExportError: the tower takes none of that size.
    """
    paths = [source.processor_path]
    if source.language_tower is None:
        paths.append(source.language_processor_path)
    try:
        sizes = [processor_spec(load_processor(path)) for path in dict.fromkeys(paths)]
    except ExportError as error:
        _log.debug("%s", error)
        return False
    grid_of_processor(sizes[0], source.vision_parts.positions)
    return True


def _validate(
    made: ModelBundle,
    load: Callable[[], Checkpoint],
    export: _Export,
    options: ExportOptions,
    images: ImageSets,
    *,
    own_size: bool,
) -> None:
    """Measure a bundle beside what it was made of, and write the figures into its manifest."""
    dense = made if not options.lossy else export.make("dense", load(), options.without_losses())
    own = partial(_reference, load, made) if own_size else None
    figures = validate(made, dense, own, images.validation, accept_drop=options.accept_drop)
    path = made.path / MANIFEST_NAME
    content = read_yaml(path)
    write_manifest_content(made.path, content | {"validation": figures.model_dump()})


def _reference(load: Callable[[], Checkpoint], made: ModelBundle) -> TransformersModel:
    return TransformersModel(load(), made)


def _read_card(checkpoint: Path, spec: BundleSpec) -> str:
    try:
        return (checkpoint / spec.model_card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the model card {spec.model_card} cannot be read: {error}") from error


def _finish(directory: Path) -> ModelBundle:
    """Load the bundle as a robot would, hold it against what torch gave, and put its questions."""
    try:
        bundle = ModelBundle.load(directory)
        differences = bundle.verify_golden()
        if bundle.manifest.language is not None:
            LanguageModel(bundle).pack(bundle.manifest.questions)
    except VlmPerceptionError as error:
        raise ExportError(f"the finished bundle does not pass its own checks: {error}") from error
    for graph, difference in differences.items():
        _log.info("%s: largest difference from torch %.2g", graph, difference)
    return bundle
