# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception bundle`: inspects bundles."""

from __future__ import annotations

import importlib
import math
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_perception.cli.options.common import BundleArgument, plain_errors

app = typer.Typer(no_args_is_help=True, help="Inspect model bundles.")


@app.command("show")
def bundle_show(
    name: BundleArgument,
) -> None:
    """Verify a bundle (files and golden outputs) and print its contents.

    `vlm-perception bundle show roadworld-nano`
    """
    with plain_errors():
        loaded = importlib.import_module("vlm_perception.bundle.bundle").ModelBundle.load(name)
        loaded.verify_golden()
    Console().print(_bundle_table(loaded))


def _bundle_table(loaded: Any) -> Table:
    """The contents of a bundle's manifest as a table."""
    manifest = loaded.manifest
    image, language = manifest.image, manifest.language
    megabytes = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    licences = ", ".join(f"{part}: {licence}" for part, licence in manifest.licences.items())
    questions = (f"{each.name}: {', '.join(each.choices)}" for each in manifest.questions)
    sources = (
        f"{part}: {each.id} at {each.revision} ({each.licence})"
        for part, each in manifest.made_by.sources.items()
    )
    rows = {
        "path": str(loaded.path),
        "digest": f"{loaded.digest} (files and golden outputs verified)",
        "size": f"{megabytes:.1f} MB in {len(manifest.files)} files, {manifest.precision}",
        "image": f"{image.width}x{image.height}, {image.columns}x{image.rows} patches",
        "vision": f"{manifest.vision.family}, {manifest.vision.tokens} tokens, "
        f"embedding {manifest.vision.embedding_width}",
        "language": f"{language.layers} layers of {language.width}" if language else "none",
        "tower": describe_tower(language),
        "boxes": describe_locate(language),
        "an image": _image_cost(manifest),
        "memory": _memory(manifest),
        "accuracy drop": _accuracy(manifest),
        "vocabulary": ", ".join(manifest.vocabulary.names),
        "questions": "\n".join(questions) or "none",
        "made of": "\n".join(sources) or f"the folder {manifest.made_by.checkpoint}",
        "licences": licences,
        "model card": str(loaded.path / manifest.model_card),
    }
    table = Table(title=manifest.name, show_header=False)
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def describe_tower(language: Any) -> str:
    """Which vision tower the language model reads, and what that costs."""
    if language is None:
        return "none beside that of the encoder"
    if language.tower is None:
        return "shared: the language model reads the encoder's patch tokens"
    tower = language.tower
    size, tiles = f"{tower.image.width}x{tower.image.height}", tower.tiles
    views = "one view" if tiles is None else f"{tiles.columns}x{tiles.rows} tiles and the whole"
    return (
        f"own: {size}, {tower.image.fit}, {views}, {language.image_tokens} tokens to read; run "
        f"on key frames and questions only, {math.prod(tower.view_shape) / 1e6:.2f} MB for each"
    )


def describe_locate(language: Any) -> str:
    """How the language model writes boxes."""
    if language is None or language.locate is None:
        return "none that the language model writes; phrases are located by patches"
    return f"the language model writes them as {language.locate.format}"


def _image_cost(manifest: Any) -> str:
    """What an image takes of a prompt and of the cache behind it."""
    language = manifest.language
    if language is None:
        return f"{manifest.vision.tokens} tokens; there is no prompt without a language model"
    return (
        f"{language.image_tokens} tokens of {language.max_positions}, "
        f"{language.kv_bytes_per_image / 1e6:.2f} MB of keys and values; images per prompt: "
        f"{language.max_images}, and more is an error"
    )


def _accuracy(manifest: Any) -> str:
    """What the export measured against the same checkpoint in FP32."""
    found = manifest.validation
    if found is None:
        return "not measured: the export was given no images"
    dense = found.dense
    cosines = {"the embedding": (dense.cosine_mean, dense.cosine_min)}
    if dense.tower_cosine_mean is not None:
        tower = (dense.tower_cosine_mean, dense.tower_cosine_min)
        cosines["the language model's tower"] = tower
    shares = {"same answers": dense.attributes, "likeness of captions": dense.captions}
    parts = [
        f"cosine of {what} {mean:.4f}, worst {least:.4f}" for what, (mean, least) in cosines.items()
    ]
    parts += [f"{what} {share:.4f}" for what, share in shares.items() if share is not None]
    accepted = "; below the minimum, accepted with --accept-drop" if found.drift_accepted else ""
    return f"on {found.images} images, against dense FP32: {'; '.join(parts)}{accepted}"


def _memory(manifest: Any) -> str:
    """What the nodes will take, by the sizes of the files."""
    memory = importlib.import_module("vlm_perception.bundle.memory")
    nodes = {"vision_encoder": memory.encoder_bytes(manifest)}
    if manifest.language is not None:
        nodes["language_reasoner"] = memory.language_bytes(manifest, manifest.language)
    if manifest.label_embeddings is not None:
        nodes["while other labels are embedded also"] = memory.text_process_bytes(manifest)
    figures = ", ".join(f"{node} {size / 1e6:.0f} MB" for node, size in nodes.items())
    return f"{figures} (estimated, in ONNX Runtime; more while an engine is chosen)"
