# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bridges between tower and decoder: what they compute, and that a bundle with one says so too."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_spec

pytest.importorskip("torch")

import torch
from transformers import LlavaForConditionalGeneration, SiglipModel

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bridge import save_bridge
from vlm_perception.deploy.checkpoints.bundle_yaml import load_spec
from vlm_perception.deploy.checkpoints.load import load_checkpoint, round_to_half
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.engines.onnxruntime import OnnxRuntimeEngine
from vlm_perception.modeling.bridge_spec import BridgeSpec
from vlm_perception.modeling.bridges import begin_with, build_bridge
from vlm_perception.perception.embedding_checks import EmbeddingError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import FUSED_TOKEN, Frame

KINDS = ("mlp", "q-former", "pixel-shuffle", "average")
GRID = (16, 9)
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def vlm(siglip_checkpoint: Path) -> Any:
    path = siglip_checkpoint / "vlm"
    return LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def dual(siglip_checkpoint: Path) -> Any:
    path = siglip_checkpoint / "dual"
    return SiglipModel.from_pretrained(path, dtype=torch.float32).eval()


def built(vlm: Any, dual: Any, kind: str, tokens: int, **more: Any) -> Any:
    """A bridge for the test's checkpoint, with weights that are not those it begins with."""
    torch.manual_seed(3)
    bridge = build_bridge(
        BridgeSpec(kind=kind, tokens=tokens, **more),  # type: ignore[arg-type]
        tower=dual.vision_model,
        projector=vlm.model.multi_modal_projector,
        read=vlm.config.text_config.hidden_size,
        grid=GRID,
    )
    if kind in ("q-former", "pixel-shuffle"):
        with torch.no_grad():
            for weight in bridge.parameters():
                weight.add_(torch.randn_like(weight) * 0.05)
    return bridge.eval()


class Side(torch.nn.Module):
    """All bridges beside each other: one graph is exported in a fraction of the time of four."""

    def __init__(self, bridges: list[Any]) -> None:
        super().__init__()
        self.bridges = torch.nn.ModuleList(bridges)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(bridge(tokens) for bridge in self.bridges)


@torch.no_grad()
def test_graphs_give_what_torch_gives(vlm: Any, dual: Any, tmp_path: Path) -> None:
    layers = {"q-former": {"layers": 1}}
    module = Side([built(vlm, dual, kind, 24, **layers.get(kind, {})) for kind in KINDS])
    inputs, path = {"tokens": torch.randn(1, 144, 48)}, tmp_path / "projector.onnx"
    write_graph(module, inputs, KINDS, path, {})
    ours = OnnxRuntimeEngine(path).run({"tokens": inputs["tokens"].numpy()})
    for kind, theirs in zip(KINDS, module(**inputs), strict=True):
        assert ours[kind].shape == (1, 24, 64)
        assert np.abs(ours[kind] - theirs.numpy()).max() <= TOLERANCE


@torch.no_grad()
def test_what_each_kind_computes(vlm: Any, dual: Any) -> None:
    projector, tokens = vlm.model.multi_modal_projector, torch.randn(2, 144, 48)
    index = torch.arange(144).expand(2, -1)
    on_grid = tokens.transpose(1, 2).reshape(2, 48, 9, 16)
    pooled = torch.nn.functional.adaptive_avg_pool2d(on_grid, (4, 6)).flatten(2).transpose(1, 2)
    average = built(vlm, dual, "average", 24)
    torch.testing.assert_close(average(tokens), projector(pooled))

    # Two across and three down, row by row.
    shuffle = built(vlm, dual, "pixel-shuffle", 24)
    corner = tokens.reshape(2, 9, 16, 48)[:, :3, 2:4].flatten(1)
    torch.testing.assert_close(shuffle(tokens)[:, 1], shuffle.projection(corner))

    chosen = built(vlm, dual, "mlp", 24)
    weights = dual.vision_model.head.attention(
        dual.vision_model.head.probe.expand(2, -1, -1),
        *[dual.vision_model.post_layernorm(tokens)] * 2,
    )[1][:, 0]
    best = weights.topk(23).indices.sort().values
    kept = torch.stack([row[places] for row, places in zip(tokens, best, strict=True)])
    torch.testing.assert_close(chosen(tokens)[:, :23], projector(kept))
    rest = weights.scatter(1, best, 0.0)
    torch.testing.assert_close(chosen(tokens)[:, 23], projector(rest[:, None] @ tokens)[:, 0])

    # A Q-Former reads tokens by their places: in another order it says the same.
    former = built(vlm, dual, "q-former", 24)
    torch.testing.assert_close(former(tokens, index), former(tokens))
    shuffled = torch.randperm(144)
    whole, mixed = former(tokens), former(tokens[:, shuffled], index[:, shuffled])
    torch.testing.assert_close(mixed, whole, atol=1e-5, rtol=1e-4)
    assert (former(tokens[:, shuffled], index) - whole).abs().max() > 0.01
    assert former(tokens[:, :50], index[:, :50]).shape == whole.shape


@torch.no_grad()
def test_bridges_begin_as_averages_of_what_the_projector_gives(vlm: Any, dual: Any) -> None:
    """So that a decoder which knows the projector reads them from the first step on."""
    projector, tokens = vlm.model.multi_modal_projector, torch.randn(1, 144, 48)
    for kind in ("pixel-shuffle", "q-former"):
        bridge = build_bridge(
            BridgeSpec(kind=kind, tokens=24),  # type: ignore[arg-type]
            tower=dual.vision_model,
            projector=projector,
            read=64,
            grid=GRID,
        )
        begin_with(bridge, projector)
        same = tokens[:, :1].expand(1, 144, 48)
        expected = projector(same[:, :1]).expand(1, 24, 64)
        assert (bridge(same) - expected).abs().max() < 0.1
    # Each query looks at its own corner: what is far away hardly matters.
    far = tokens.clone()
    far[:, 100:] += 3.0
    moved = (bridge(far) - bridge(tokens)).abs().amax(dim=-1)[0]
    assert moved[0] < 0.2 * moved[-1]


def with_bridge(source: Path, path: Path, bridge: Any, weights: Any = None, **spec: Any) -> Path:
    """A checkpoint like another, with a bridge."""
    shutil.copytree(source, path)
    write_spec(path, bridge=bridge, **spec)
    if weights is not None:
        save_bridge(weights, path / "vlm")
    return path


@torch.no_grad()
def test_a_pruned_bundle_with_a_q_former_says_what_torch_says(
    siglip_checkpoint: Path, vlm: Any, dual: Any, tmp_path: Path, photos: Path
) -> None:
    stored = {"kind": "q-former", "tokens": 12, "layers": 1, "grid": [16, 9]}
    former = built(vlm, dual, "q-former", 12, layers=1)
    path = with_bridge(siglip_checkpoint, tmp_path / "checkpoint", stored, former)
    options = ExportOptions(keep="0.6@1", calibration=photos, validate=False)
    bundle = export_bundle(path, tmp_path / "bundle", options)
    language = bundle.manifest.language
    assert language is not None
    assert language.image_tokens == 12
    model, encoder = LanguageModel(bundle), VisionEncoder(bundle, temporal=False)
    model.verify()
    seen = encoder.encode(
        Frame(np.random.default_rng(5).integers(0, 256, (36, 64, 3), np.uint8), 1), 0
    )

    # transformers' own decoder, behind the bridge in torch.
    source = load_checkpoint(path, "same", bridge=load_spec(path).bridge)
    round_to_half(source.vlm)
    index = torch.from_numpy(seen.token_index.astype(np.int64))
    index[index == FUSED_TOKEN] = -1
    assert index[-1] == -1
    embeds = source.vlm.model.multi_modal_projector(
        torch.from_numpy(seen.tokens.astype(np.float32))[None], index[None]
    )
    table = source.vlm.get_input_embeddings()
    tokenizer = source.vlm_tokenizer
    prefix = model.read(seen)
    for text in ("describe the scene", "what is the weather"):
        ids = tokenizer(f"question: {text} answer:", add_special_tokens=False)["input_ids"]
        prompt = torch.cat([table(torch.tensor([[1]])), embeds, table(torch.tensor([ids]))], dim=1)
        theirs = source.vlm.generate(inputs_embeds=prompt, max_new_tokens=16, do_sample=False)[
            0
        ].tolist()
        ours = model.generate(prefix, text, max_tokens=16)
        assert list(ours.token_ids) == [t for t in theirs if t != tokenizer.eos_token_id]
    assert len(model.answer(prefix, model.pack(bundle.manifest.questions))) == 3

    # Places that are no places of these tokens are refused.
    outside = seen.token_index.copy()
    outside[0] = 144
    for wrong in (outside, seen.token_index[:-1]):
        with pytest.raises(EmbeddingError, match="places"):
            model.read(replace(seen, token_index=wrong))


@pytest.mark.parametrize(
    ("bridge", "spec", "keep", "sentence"),
    [
        ({"kind": "average", "tokens": 24, "grid": [16, 9]}, {}, "0.5@1", "without --keep"),
        ({"kind": "average", "tokens": 24, "grid": [12, 12]}, {}, None, "trained on 12x12 patches"),
        ({"kind": "pixel-shuffle", "tokens": 25, "grid": [16, 9]}, {}, None, "can make 1, 2, 3"),
        ({"kind": "pixel-shuffle", "tokens": 24, "grid": [16, 9]}, {}, None, "cannot be loaded"),
        ({"kind": "mlp", "tokens": 200, "grid": [16, 9]}, {}, None, "more than the tower"),
        ({"kind": "q-former", "grid": [16, 9]}, {}, None, "needs `tokens`"),
        (
            {"kind": "mlp", "tokens": 24, "grid": [16, 9]},
            {"vision_tower": "own"},
            None,
            "a vision tower of its own",
        ),
    ],
)
def test_a_bridge_that_does_not_fit_is_refused(
    bridge: Any,
    spec: Any,
    keep: str | None,
    sentence: str,
    siglip_checkpoint: Path,
    tmp_path: Path,
    photos: Path,
) -> None:
    path = with_bridge(siglip_checkpoint, tmp_path / "checkpoint", bridge, **spec)
    options = ExportOptions(keep=keep, calibration=photos if keep else None)
    with pytest.raises(ExportError, match=sentence):
        export_bundle(path, tmp_path / "bundle", options)
