# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the files of a bundle, step by step; the manifest comes last."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm_perception.bundle.bundle import LANGUAGE_VISION_GRAPH, TEXT_GRAPH, VISION_GRAPH
from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.label_embeddings import own_prompts, text_digest
from vlm_perception.bundle.manifest import (
    FORMAT_VERSION,
    FileEntry,
    ImageSpec,
    LabelEmbeddingsSpec,
    Manifest,
    TextSpec,
    VocabularySpec,
)
from vlm_perception.bundle.write_manifest import write_manifest_content
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec
from vlm_perception.deploy.checkpoints.load import Checkpoint, round_to_half
from vlm_perception.deploy.compression.activation_ranges import Fit
from vlm_perception.deploy.compression.int8 import quantize_graphs
from vlm_perception.deploy.compression.precision_config import CONFIG_NAME, read_config
from vlm_perception.deploy.compression.trained_steps import read_trained
from vlm_perception.deploy.export.adaptation import adaptation_part
from vlm_perception.deploy.export.input_geometry import Geometry, choose_geometry
from vlm_perception.deploy.export.language_vision import LanguageVision, lay_out_language_vision
from vlm_perception.deploy.export.manifest_fields import (
    EMBEDDINGS_NAME,
    GOLDEN_NAME,
    golden_spec,
    language_spec,
    locate_spec,
    made_by,
    temporal_spec,
    text_spec,
    vision_spec,
)
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.parts import (
    Golden,
    Part,
    golden_of,
    golden_of_engine,
    let_go,
    parts_of,
    weights_to_float,
    weights_to_half,
)
from vlm_perception.deploy.export.vision import Vision, lay_out_vision
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.deploy.validation.images import ImageSets
from vlm_perception.engines.onnxruntime import OnnxRuntimeEngine
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.views import Views
from vlm_perception.perception.vision.text_tower import TextTower

CARD_NAME = "MODEL_CARD.md"
LABELS_NAME = "label_embeddings.npy"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Written:
    """What the manifest's files contain."""

    geometry: Geometry
    vision: Vision
    own: LanguageVision | None
    text: TextSpec
    quantized: tuple[str, ...]
    """Graphs that compute in INT8."""
    golden: Golden
    tokenizers: dict[str, str]
    """File of each, by its use."""


def write_bundle(
    directory: Path,
    source: Checkpoint,
    spec: BundleSpec,
    card: str,
    options: ExportOptions,
    images: ImageSets | None,
) -> None:
    """Write every file of a bundle into an empty directory.

    It uses the checkpoint up: weights are rounded to what FP16 holds, heads that are pruned become
    zeros, and the memory of what is written, or no graph reads, is given back.

    Raises:
        ExportError: the checkpoint cannot become a bundle with these options.
    """
    (directory / CARD_NAME).write_text(card, encoding="utf-8")
    _round_weights(source)
    geometry = choose_geometry(source, spec, options)
    vision = lay_out_vision(source, geometry, options, images)
    own = lay_out_language_vision(source)
    tokenizers = _write_tokenizers(directory, source)
    before = _tokens_before_image(directory, tokenizers, spec)
    parts = parts_of(source, vision.graph, geometry.image, own, before)
    if options.adapt:
        parts.append(adaptation_part(source, parts))
    text = text_spec(source, tokenizers["text"])
    _write_embeddings(directory, source)
    for model in filter(None, (source.dual, source.vlm)):
        let_go(model, parts)
    golden = _write_graphs(directory, parts)
    quantized = _quantize(directory, source.path, geometry.image, own, golden, options, images)
    golden |= _golden_of_engines(directory, parts, quantized)
    _save_arrays(directory / GOLDEN_NAME, golden)
    _write_label_embeddings(directory, text, spec.vocabulary)
    written = _Written(geometry, vision, own, text, quantized, golden, tokenizers)
    _write_manifest(directory, source, spec, written)


def _round_weights(source: Checkpoint) -> None:
    """Make the references compute with the weights that the bundle will hold."""
    round_to_half(source.dual)
    if source.vlm is not None:
        round_to_half(source.vlm)


def _write_graphs(directory: Path, parts: Sequence[Part]) -> Golden:
    """Write each graph, and return what torch gives for its inputs."""
    golden: Golden = {}
    weights_to_half(parts)
    for index, part in enumerate(parts):
        _log.info("exporting %s", part.name)
        weights_to_float(part)
        golden |= golden_of(part)
        release = partial(let_go, part.module, parts[index + 1 :])
        path = directory / part.name
        with torch.no_grad():
            write_graph(part.module, part.inputs, part.outputs, path, part.dynamic, release)
    return golden


def _write_embeddings(directory: Path, source: Checkpoint) -> None:
    """Write the language model's table of token embeddings, if there is one."""
    if source.vlm is not None:
        table = source.vlm.get_input_embeddings().weight.detach().numpy().astype(np.float16)
        np.save(directory / EMBEDDINGS_NAME, table)


def _quantize(
    directory: Path,
    checkpoint: Path,
    image: ImageSpec,
    own: LanguageVision | None,
    golden: Golden,
    options: ExportOptions,
    images: ImageSets | None,
) -> tuple[str, ...]:
    """Replace the graphs that the options want in INT8, and return their names."""
    if options.precision != "int8-mixed" or images is None:
        return ()
    preprocessor = Preprocessor(image)
    fits: dict[str, Fit] = {VISION_GRAPH: lambda pixels: preprocessor.run(pixels)[0]}
    if own is not None:
        shape = golden[f"{LANGUAGE_VISION_GRAPH}/out/tokens"].shape
        fits[LANGUAGE_VISION_GRAPH] = Views(own.spec(shape)).of
    trained = read_trained(checkpoint)
    if trained is not None:
        _log.info("not calibrated: the steps are those that %s was trained with", trained.file)
    return quantize_graphs(directory, images.calibration, fits, options.precision_config, trained)


def _golden_of_engines(directory: Path, parts: Sequence[Part], quantized: Sequence[str]) -> Golden:
    """What the engine gives where a graph is quantized, which torch cannot compute."""
    golden: Golden = {}
    for part in parts:
        if part.name in quantized:
            golden |= golden_of_engine(directory / part.name, part)
    return golden


def _save_arrays(file: Path, golden: Golden) -> None:
    # Any: numpy's own types take the arrays for the function's switches.
    arrays: Any = golden
    np.savez_compressed(file, **arrays)


def _write_label_embeddings(directory: Path, text: TextSpec, vocabulary: VocabularySpec) -> None:
    """Embed the labels in the engine that would do it on the robot."""
    tokenizer = TextTokenizer(directory / text.tokenizer)
    tower = TextTower(text, tokenizer, OnnxRuntimeEngine(directory / TEXT_GRAPH))
    np.save(directory / LABELS_NAME, tower.embed(own_prompts(vocabulary)))


def _write_tokenizers(directory: Path, source: Checkpoint) -> dict[str, str]:
    """Write each tokenizer, equal ones once, and return the file of each."""
    tokenizers = {"text": source.dual_tokenizer}
    if source.vlm is not None:
        tokenizers["language"] = source.vlm_tokenizer
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


def _tokens_before_image(directory: Path, tokenizers: dict[str, str], spec: BundleSpec) -> int:
    """As the robot counts them; 0 without a language model."""
    if "language" not in tokenizers:
        return 0
    before, _ = spec.caption.template.split("{image}", 1)
    return len(TextTokenizer(directory / tokenizers["language"]).encode_template(before))


def _write_manifest(
    directory: Path, source: Checkpoint, spec: BundleSpec, written: _Written
) -> None:
    """Write the bundle's manifest, with the hash of every file in the directory."""
    config = read_config(directory / CONFIG_NAME) if written.quantized else None
    language = None
    if source.vlm is not None:
        language = language_spec(
            source,
            spec,
            written.tokenizers["language"],
            written.golden,
            written.own,
            locate_spec(source, spec, written.geometry),
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=spec.name,
        digest="0" * 64,
        precision="int8-mixed" if written.quantized else "float16-weights",
        precision_plan=CONFIG_NAME if written.quantized else None,
        image=written.geometry.image,
        vision=vision_spec(source, written.vision, written.golden),
        text=written.text,
        vocabulary=spec.vocabulary,
        language=language,
        temporal=temporal_spec(source.temporal),
        questions=spec.questions,
        golden=golden_spec(written.quantized, config),
        licences=spec.licences,
        model_card=CARD_NAME,
        made_by=made_by(source),
        files=_entries(directory),
    )
    labels = LabelEmbeddingsSpec(file=LABELS_NAME, made_of=text_digest(manifest))
    manifest = manifest.model_copy(update={"label_embeddings": labels})
    write_manifest_content(directory, json.loads(manifest.model_dump_json()))


def _entries(directory: Path) -> dict[str, FileEntry]:
    return {
        path.name: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(directory.iterdir())
    }
