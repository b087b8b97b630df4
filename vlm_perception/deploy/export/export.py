# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a checkpoint directory."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from vlm_perception.bundle.bundle import MANIFEST_NAME, VISION_GRAPH, ModelBundle
from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import (
    FORMAT_VERSION,
    FileEntry,
    GoldenSpec,
    Manifest,
    VisionSpec,
    describe_errors,
    manifest_digest,
)
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec, load_spec
from vlm_perception.deploy.checkpoints.image_processor import load_processor, processor_spec
from vlm_perception.deploy.checkpoints.load import Checkpoint, load_checkpoint, round_to_half
from vlm_perception.deploy.compression.int8 import quantize_graphs
from vlm_perception.deploy.compression.precision_plan import PLAN_NAME
from vlm_perception.deploy.export.input_geometry import choose_geometry, grid_of_processor
from vlm_perception.deploy.export.manifest_fields import (
    EMBEDDINGS_NAME,
    language_spec,
    made_by,
    temporal_spec,
    text_spec,
)
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.parts import (
    decoder_part,
    golden_of,
    golden_of_engine,
    projector_part,
    temporal_part,
    text_part,
    vision_part,
)
from vlm_perception.deploy.export.vision import lay_out_vision
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.deploy.validation.gate import validate
from vlm_perception.deploy.validation.images import ImageSets, split_images
from vlm_perception.deploy.validation.transformers_reference import TransformersModel
from vlm_perception.engines.tensorrt.plan_store import FOLDER as PLANS
from vlm_perception.outputs.apart import keep_apart
from vlm_perception.outputs.swap import made_beside, swap
from vlm_perception.outputs.work import is_plain
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.vocabulary import VocabularyBuilder

GOLDEN_NAME = "golden.npz"
CARD_NAME = "MODEL_CARD.md"
GOLDEN_ABSOLUTE = 1e-3
GOLDEN_RELATIVE = 1e-3
# ONNX Runtime and OpenVINO differ by 0.0001 on a quantized tower; another network by far more.
GOLDEN_COSINE = 0.99

_log = logging.getLogger(__name__)


def export_bundle(
    checkpoint: Path,
    out: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> ModelBundle:
    """Make a bundle and check it against the checkpoint's own outputs.

    Args:
        checkpoint: directory with `dual/`, perhaps `vlm/`, and bundle.yaml.
        out: the bundle's directory; a bundle that stands there is replaced.
        options: how the networks are laid out, thinned out and quantized.

    Returns:
        The finished bundle, loaded.

    Raises:
        ExportError: the checkpoint cannot become a bundle, or `out` cannot be written.
        OutputError: `out` holds what is read, or lies in it, or another export writes there.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    spec = load_spec(checkpoint)
    read = [checkpoint, *([options.calibration] if options.calibration is not None else [])]
    place = keep_apart(out, read)
    _require_bundle(place)
    card = _read_card(checkpoint, spec)
    images = None if options.calibration is None else split_images(options.calibration)
    source = load_checkpoint(checkpoint, spec.vision_tower)
    own_size = _processors_fit(source)
    if images is not None and not own_size:
        _log.warning(
            "not compared with the checkpoint's own processor: it cuts images up or makes them of "
            "several sizes"
        )
    if options.keep is not None and source.projector_needs_grid:
        raise ExportError(
            f"{checkpoint / 'vlm'} joins squares of tokens (pixel shuffle), so none of them may be "
            "pruned before it; export it without --keep"
        )
    try:
        with made_beside(place, "export") as scratch:
            export = _Export(source, spec, card, scratch, images)
            made = export.make("bundle", options)
            if images is not None and options.validate:
                own = TransformersModel(source, made) if own_size else None
                _validate(made, own, export, options, images)
            made.path.chmod(0o755)
            _require_bundle(place)
            swap(made.path, place)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    except ValidationError as error:
        raise ExportError(
            f"{checkpoint} holds what no bundle can: {describe_errors(error)}"
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
    """A checkpoint from which bundles are made in a folder that nobody else looks into."""

    source: Checkpoint
    spec: BundleSpec
    card: str
    scratch: Path
    images: ImageSets | None

    def make(self, name: str, options: ExportOptions) -> ModelBundle:
        """Make a bundle and hold it against what torch gave."""
        directory = self.scratch / name
        directory.mkdir()
        (directory / CARD_NAME).write_text(self.card, encoding="utf-8")
        # What is thinned out for one bundle must be whole for the references.
        source = self.source if self.images is None else copy.deepcopy(self.source)
        _fill(directory, source, self.spec, options, self.images)
        return _finish(directory)


def _processors_fit(source: Checkpoint) -> bool:
    """Whether the checkpoint's own processors make images of one size.

    Raises:
        ExportError: the tower takes none of that size.
    """
    paths = (source.processor_path, source.language_processor_path)
    try:
        sizes = [processor_spec(load_processor(path)) for path in dict.fromkeys(paths)]
    except ExportError as error:
        _log.debug("%s", error)
        return False
    grid_of_processor(sizes[0], source.dual.vision_model.embeddings)
    return True


def _validate(
    made: ModelBundle,
    own: TransformersModel | None,
    export: _Export,
    options: ExportOptions,
    images: ImageSets,
) -> None:
    """Measure a bundle beside what it was made of, and write the figures into its manifest."""
    dense = made if not options.lossy else export.make("dense", options.without_losses())
    figures = validate(made, dense, own, images.validation, accept_drift=options.accept_drift)
    path = made.path / MANIFEST_NAME
    content = read_yaml(path)
    _write_content(made.path, content | {"validation": figures.model_dump()})


def _fill(
    directory: Path,
    source: Checkpoint,
    spec: BundleSpec,
    options: ExportOptions,
    images: ImageSets | None,
) -> None:
    """Write every file of the bundle."""
    round_to_half(source.dual)
    geometry = choose_geometry(source, spec, options)
    image = geometry.image
    vision = lay_out_vision(source, geometry, options, images)
    length = source.dual.config.text_config.max_position_embeddings
    parts = [vision_part(vision.graph, image), text_part(source, length)]
    tokenizers = {"text": source.dual_tokenizer}
    language = None
    if source.vlm is not None:
        round_to_half(source.vlm)
        tokenizers["language"] = source.vlm_tokenizer
        with torch.no_grad():
            tokens = vision.graph(*parts[0].inputs.values())[1]
        parts += [projector_part(source, tokens, image), decoder_part(source)]
        table = source.vlm.get_input_embeddings().weight.detach().numpy().astype(np.float16)
        np.save(directory / EMBEDDINGS_NAME, table)
    if source.temporal is not None:
        parts.append(temporal_part(source.temporal))
    golden: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for part in parts:
            _log.info("exporting %s", part.name)
            golden |= golden_of(part)
            write_graph(part.module, part.inputs, part.outputs, directory / part.name, part.dynamic)
    quantized: tuple[str, ...] = ()
    if options.precision == "int8-mixed" and images is not None:
        quantized = quantize_graphs(directory, images.calibration, image, options.plan)
    for graph in quantized:
        golden |= golden_of_engine(directory / graph, golden)
    # Any: numpy's own types take the arrays for the function's switches.
    arrays: Any = golden
    np.savez_compressed(directory / GOLDEN_NAME, **arrays)
    files = _write_tokenizers(directory, tokenizers)
    if source.vlm is not None:
        language = language_spec(source, spec, files["language"], golden)
    pooled, tokens_out = (golden[f"{VISION_GRAPH}/out/{name}"] for name in ("pooled", "tokens"))
    _write_manifest(
        directory,
        format_version=FORMAT_VERSION,
        name=spec.name,
        digest="0" * 64,
        precision="int8-mixed" if quantized else "float16-weights",
        precision_plan=PLAN_NAME if quantized else None,
        image=image,
        vision=VisionSpec(
            family="clip" if source.family == "clip" else "siglip",
            tokens=tokens_out.shape[1],
            token_width=tokens_out.shape[2],
            embedding_width=pooled.shape[1],
            keep=vision.keep,
            head_steps=vision.head_steps,
        ),
        text=text_spec(source, files["text"], length),
        vocabulary=spec.vocabulary,
        language=language,
        temporal=temporal_spec(source.temporal),
        questions=spec.questions,
        golden=GoldenSpec(
            file=GOLDEN_NAME,
            absolute=GOLDEN_ABSOLUTE,
            relative=GOLDEN_RELATIVE,
            cosine=dict.fromkeys(quantized, GOLDEN_COSINE),
        ),
        licences=spec.licences,
        model_card=CARD_NAME,
        made_by=made_by(source),
    )


def _write_tokenizers(directory: Path, tokenizers: dict[str, Any]) -> dict[str, str]:
    """Write each tokenizer, equal ones once, and return the file of each."""
    files: dict[str, str] = {}
    written: dict[str, str] = {}
    for use, tokenizer in tokenizers.items():
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        text = backend.to_str(pretty=True)
        if text not in written:
            written[text] = "tokenizer.json" if not written else f"{use}_tokenizer.json"
            (directory / written[text]).write_text(text, encoding="utf-8")
        files[use] = written[text]
    return files


def _read_card(checkpoint: Path, spec: BundleSpec) -> str:
    try:
        return (checkpoint / spec.model_card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the model card {spec.model_card} cannot be read: {error}") from error


def _write_manifest(directory: Path, **fields: Any) -> None:
    files = {
        path.name: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(directory.iterdir())
    }
    _write_content(directory, json.loads(Manifest(**fields, files=files).model_dump_json()))


def _write_content(directory: Path, content: dict[str, Any]) -> None:
    """Write a manifest under the digest of its content."""
    content = content | {"digest": manifest_digest(content)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _finish(directory: Path) -> ModelBundle:
    """Load the bundle as a robot would, hold it against what torch gave, and put its questions."""
    try:
        bundle = ModelBundle.load(directory)
        differences = bundle.verify_golden()
        VocabularyBuilder(bundle).build(None, version=1)
        if bundle.manifest.language is not None:
            LanguageModel(bundle).pack(bundle.manifest.questions)
    except VlmPerceptionError as error:
        raise ExportError(f"the finished bundle does not pass its own checks: {error}") from error
    for graph, difference in differences.items():
        _log.info("%s: largest difference from torch %.2g", graph, difference)
    return bundle


def _require_bundle(out: Path) -> None:
    """Refuse a place where more stands than a bundle that may be replaced.

    Raises:
        ExportError: there are files that no export has put there.
    """
    if not out.exists():
        return
    manifest = out / MANIFEST_NAME
    if not manifest.is_file():
        raise ExportError(f"{out} exists and is no bundle; it will not be overwritten")
    try:
        listed = {MANIFEST_NAME, *read_yaml(manifest)["files"]}
    except (OSError, YamlError, TypeError, KeyError) as error:
        raise ExportError(
            f"{manifest} does not tell which files of {out} are a bundle's; move that folder away "
            "or choose another --out"
        ) from error
    files = (path.relative_to(out) for path in out.rglob("*") if not is_plain(path))
    foreign = [each for each in files if str(each) not in listed and each.parts[0] != PLANS]
    if foreign:
        raise ExportError(
            f"{out / foreign[0]} is no part of the bundle and would be lost; move it away or "
            "choose another --out"
        )
