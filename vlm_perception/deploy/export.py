# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a bundle of a checkpoint directory."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.bundle import (
    DECODER_GRAPH,
    FORMAT_VERSION,
    MANIFEST_NAME,
    PROJECTOR_GRAPH,
    TEXT_GRAPH,
    VISION_GRAPH,
    FileEntry,
    GoldenSpec,
    ImageSpec,
    LanguageSpec,
    MadeBy,
    Manifest,
    ModelBundle,
    TextSpec,
    VisionSpec,
    file_sha256,
    manifest_digest,
)
from vlm_perception.deploy.checkpoint import Checkpoint, load_checkpoint, round_to_half
from vlm_perception.deploy.errors import ExportError
from vlm_perception.deploy.graphs import DecoderGraph, ProjectorGraph, TextGraph, VisionGraph
from vlm_perception.deploy.onnx_writer import write_graph
from vlm_perception.deploy.spec import BundleSpec, load_spec
from vlm_perception.perception.language import LanguageModel
from vlm_perception.perception.vocabulary import VocabularyBuilder

GOLDEN_NAME = "golden.npz"
EMBEDDINGS_NAME = "token_embeddings.npy"
CARD_NAME = "MODEL_CARD.md"
GOLDEN_ABSOLUTE = 1e-3
GOLDEN_RELATIVE = 1e-3

_log = logging.getLogger(__name__)


def export_bundle(checkpoint: Path, out: Path) -> ModelBundle:
    """Make a bundle and check it against the checkpoint's own outputs.

    Args:
        checkpoint: directory with `dual/`, perhaps `vlm/`, and bundle.yaml.
        out: the bundle's directory; a bundle that stands there is replaced.

    Returns:
        The finished bundle, loaded.

    Raises:
        ExportError: the checkpoint cannot become a bundle, or `out` cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    spec = load_spec(checkpoint)
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise ExportError(f"{out} exists and is no bundle; it will not be overwritten")
    card = _read_card(checkpoint, spec)
    source = load_checkpoint(checkpoint, spec.vision_tower)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    try:
        (scratch / CARD_NAME).write_text(card, encoding="utf-8")
        _fill(scratch, source, spec)
        _finish(scratch)
        _replace(out, scratch)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ModelBundle.load(out)


@dataclass(frozen=True)
class _Part:
    """A graph to be exported, with the example that becomes its golden input."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]


def _fill(directory: Path, source: Checkpoint, spec: BundleSpec) -> None:
    """Write every file of the bundle."""
    round_to_half(source.dual)
    image = _image_spec(source, spec)
    layers, drop_class = _feature_selection(source)
    vision = VisionGraph(
        source.dual,
        size=(image.width, image.height),
        mean=image.mean,
        std=image.std,
        feature_layers=layers,
        drop_class_token=drop_class,
    )
    length = source.dual.config.text_config.max_position_embeddings
    parts = [_vision_part(vision, image), _text_part(source, length)]
    tokenizers = {"text": source.dual_tokenizer}
    language = None
    if source.vlm is not None:
        round_to_half(source.vlm)
        tokenizers["language"] = source.vlm_tokenizer
        with torch.no_grad():
            tokens = vision(*parts[0].inputs.values())[1]
        parts += [_projector_part(source, tokens), _decoder_part(source)]
        table = source.vlm.get_input_embeddings().weight.detach().numpy().astype(np.float16)
        np.save(directory / EMBEDDINGS_NAME, table)
    golden: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for part in parts:
            _log.info("exporting %s", part.name)
            golden |= _golden(part)
            write_graph(part.module, part.inputs, part.outputs, directory / part.name, part.dynamic)
    # Any: numpy's own types take the arrays for the function's switches.
    arrays: Any = golden
    np.savez_compressed(directory / GOLDEN_NAME, **arrays)
    files = _write_tokenizers(directory, tokenizers)
    if source.vlm is not None:
        language = _language_spec(source, spec, files["language"], golden)
    pooled, tokens_out = (golden[f"{VISION_GRAPH}/out/{name}"] for name in ("pooled", "tokens"))
    _write_manifest(
        directory,
        format_version=FORMAT_VERSION,
        name=spec.name,
        digest="0" * 64,
        precision="float16-weights",
        image=image,
        vision=VisionSpec(
            family="clip" if source.family == "clip" else "siglip",
            tokens=tokens_out.shape[1],
            token_width=tokens_out.shape[2],
            embedding_width=pooled.shape[1],
        ),
        text=_text_spec(source, files["text"], length),
        vocabulary=spec.vocabulary,
        language=language,
        questions=spec.questions,
        golden=GoldenSpec(file=GOLDEN_NAME, absolute=GOLDEN_ABSOLUTE, relative=GOLDEN_RELATIVE),
        licences=spec.licences,
        model_card=CARD_NAME,
        made_by=_made_by(source),
    )


def _image_spec(source: Checkpoint, spec: BundleSpec) -> ImageSpec:
    tower = source.dual.config.vision_config
    width, height = tower.image_size, tower.image_size
    if spec.geometry is not None:
        width, height = spec.geometry.width, spec.geometry.height
    patch = tower.patch_size
    if width % patch or height % patch:
        raise ExportError(
            f"the geometry {width}x{height} is no whole number of patches of {patch} pixels; "
            f"the nearest is {round(width / patch) * patch}x{round(height / patch) * patch}"
        )
    red, green, blue = (min(255, max(0, round(255 * m))) for m in source.normalisation.mean)
    return ImageSpec(
        width=width,
        height=height,
        patch=patch,
        columns=width // patch,
        rows=height // patch,
        mean=source.normalisation.mean,
        std=source.normalisation.std,
        pad=(red, green, blue),
    )


def _feature_selection(source: Checkpoint) -> tuple[list[int], bool]:
    """Which hidden states the projector reads, and whether without the class token."""
    if source.vlm is None:
        return [-1], True
    config = source.vlm.config
    chosen = config.vision_feature_layer
    drop = config.vision_feature_select_strategy == "default"
    if drop and source.family == "siglip":
        raise ExportError(
            "vlm/ selects features with the strategy `default`, which drops the first patch of a "
            "tower without class token; set vision_feature_select_strategy to `full` and train so"
        )
    return ([chosen] if isinstance(chosen, int) else list(chosen)), drop


def _vision_part(vision: VisionGraph, image: ImageSpec) -> _Part:
    pixels = torch.from_numpy(_golden_image(image.width, image.height))
    return _Part(VISION_GRAPH, vision, {"image": pixels}, ("pooled", "tokens", "patches"), {})


def _golden_image(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth waves in three colours and a few sharp blocks, [1, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + 4 * c) + c) * np.cos(y / (7 + 3 * c)) for c in range(3)]
    image = np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = (230, 20, 30)
    image[height // 2 :, width // 2 : width // 2 + width // 8] = (10, 200, 60)
    return image[np.newaxis]


def _text_part(source: Checkpoint, length: int) -> _Part:
    config = source.dual.config.text_config
    ids = torch.arange(2 * length).reshape(2, length) % config.vocab_size
    if source.family == "clip":
        ids[:, -1] = config.eos_token_id
    return _Part(
        TEXT_GRAPH,
        TextGraph(source.dual, length),
        {"input_ids": ids},
        ("embedding",),
        {"input_ids": {0: "texts"}},
    )


def _projector_part(source: Checkpoint, tokens: Tensor) -> _Part:
    assert source.vlm is not None
    module = ProjectorGraph(source.vlm.model.multi_modal_projector)
    dynamic = {"tokens": {1: "tokens"}}
    return _Part(PROJECTOR_GRAPH, module, {"tokens": tokens}, ("embeds",), dynamic)


def _decoder_part(source: Checkpoint) -> _Part:
    assert source.vlm is not None
    decoder = source.vlm.model.language_model
    config = decoder.config
    # Sizes that differ from each other and from one, or the exporter would take them as fixed.
    batch, new, past = 2, 5, 3
    generator = torch.Generator().manual_seed(0)
    rows = decoder.embed_tokens.weight.detach()
    embeds = rows[torch.arange(batch * new) % rows.shape[0]].reshape(batch, new, -1)
    heads, head_dim = config.num_key_value_heads, decoder.layers[0].self_attn.head_dim
    shape = (config.num_hidden_layers, 2, batch, heads, past, head_dim)
    causal = torch.full((new, past + new), -1e9).triu(past + 1)
    inputs = {
        "inputs_embeds": embeds,
        "past": 0.1 * torch.randn(shape, generator=generator),
        "position_ids": (torch.arange(new) + past).expand(batch, new).clone(),
        "mask": causal.expand(batch, 1, new, past + new).clone(),
        "logit_rows": torch.tensor([0, 1, 3, 4]),
    }
    dynamic = {
        "inputs_embeds": {0: "batch", 1: "new"},
        "past": {2: "batch", 4: "past"},
        "position_ids": {0: "batch", 1: "new"},
        "mask": {0: "batch", 2: "new", 3: "total"},
        "logit_rows": {0: "rows"},
    }
    module = DecoderGraph(decoder, source.vlm.lm_head)
    return _Part(DECODER_GRAPH, module, inputs, ("logits", "new_kv"), dynamic)


def _golden(part: _Part) -> dict[str, NDArray[Any]]:
    """Inputs and what the network gives for them in torch."""
    result = part.module(*part.inputs.values())
    outputs = result if isinstance(result, tuple) else (result,)
    stored = {f"{part.name}/in/{name}": value.numpy() for name, value in part.inputs.items()}
    return stored | {
        f"{part.name}/out/{name}": value.numpy()
        for name, value in zip(part.outputs, outputs, strict=True)
    }


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


def _text_spec(source: Checkpoint, tokenizer: str, length: int) -> TextSpec:
    pad = source.dual_tokenizer.pad_token_id
    if pad is None:
        pad = source.dual.config.text_config.pad_token_id
    if pad is None:
        raise ExportError("dual/ names no padding token, neither in the tokenizer nor the config")
    siglip = source.family == "siglip"
    end = source.dual.config.text_config.eos_token_id
    if not siglip and end not in source.dual_tokenizer("text")["input_ids"]:
        raise ExportError(
            f"dual/ reads a text at its end token {end}, which its tokenizer does not add; "
            "set the tokenizer's post-processor"
        )
    return TextSpec(
        tokenizer=tokenizer,
        length=length,
        pad_token_id=pad,
        score="sigmoid" if siglip else "softmax",
        logit_scale=float(source.dual.logit_scale.exp()),
        logit_bias=float(source.dual.logit_bias) if siglip else 0.0,
    )


def _language_spec(
    source: Checkpoint, spec: BundleSpec, tokenizer: str, golden: dict[str, NDArray[Any]]
) -> LanguageSpec:
    assert source.vlm is not None
    assert source.vlm_tokenizer is not None
    config = source.vlm.config.text_config
    stops = source.vlm.generation_config.eos_token_id
    stops = source.vlm_tokenizer.eos_token_id if stops is None else stops
    if stops is None:
        raise ExportError("vlm/ names no end token, neither in generation_config nor the tokenizer")
    layers, pair, _, heads, _, head_dim = golden[f"{DECODER_GRAPH}/in/past"].shape
    image_tokens = golden[f"{PROJECTOR_GRAPH}/in/tokens"].shape[1]
    return LanguageSpec(
        tokenizer=tokenizer,
        embeddings=EMBEDDINGS_NAME,
        prompt=spec.caption.template,
        answer_separator=spec.caption.answer_separator,
        caption_prompt=spec.caption.prompt,
        stop_token_ids=tuple(stops) if isinstance(stops, Sequence) else (stops,),
        width=config.hidden_size,
        layers=layers,
        kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        image_tokens=image_tokens,
        max_images=1,
        kv_bytes_per_token=layers * pair * heads * head_dim * 4,
    )


def _read_card(checkpoint: Path, spec: BundleSpec) -> str:
    try:
        return (checkpoint / spec.model_card).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ExportError(f"the model card {spec.model_card} cannot be read: {error}") from error


def _made_by(source: Checkpoint) -> MadeBy:
    return MadeBy(
        command="vlm-perception export",
        checkpoint=source.path.resolve().name,
        weights=source.weights,
        versions={
            "onnx": onnx.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def _write_manifest(directory: Path, **fields: Any) -> None:
    files = {
        path.name: FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(directory.iterdir())
    }
    content = json.loads(Manifest(**fields, files=files).model_dump_json())
    content["digest"] = manifest_digest(content)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _finish(directory: Path) -> None:
    """Load the bundle as a robot would, hold it against what torch gave, and put its questions."""
    try:
        bundle = ModelBundle.load(directory)
        differences = bundle.verify_golden()
        VocabularyBuilder(bundle).build(None, version=1)
        if bundle.manifest.language is not None:
            LanguageModel(bundle).pack(bundle.manifest.questions)
    except ValueError as error:
        raise ExportError(f"the finished bundle does not pass its own checks: {error}") from error
    for graph, difference in differences.items():
        _log.info("%s: largest difference from torch %.2g", graph, difference)


def _replace(out: Path, finished: Path) -> None:
    """Put the finished bundle in its place; readers see the old one or the new one."""
    finished.chmod(0o755)
    if not out.exists():
        finished.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / "bundle")
    finished.rename(out)
    shutil.rmtree(old, ignore_errors=True)
