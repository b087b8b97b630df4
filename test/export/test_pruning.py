# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Token pruning: the graph keeps and fuses what a plain reference does, and only static nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from support.checkpoints import make_checkpoint
from torch import Tensor
from transformers import AutoModel

from vlm_perception.bundle.manifest import ImageSpec, KeepStep, VisionSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import round_to_half
from vlm_perception.deploy.compression.latency_budget import (
    choose,
    fit_to_device,
    lower_edges,
    predict_gain,
    prunable_places,
    schedules,
)
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.parts import vision_part
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.engines.onnxruntime import OnnxRuntimeEngine
from vlm_perception.modeling.token_pruning import parse_schedule, prune
from vlm_perception.modeling.towers.clip import ClipVision
from vlm_perception.modeling.towers.siglip import SiglipVision
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import FUSED_TOKEN, Frame

TOLERANCE = 1e-3
HALF = (0.5, 0.5, 0.5)
SCHEDULE = "0.5@0,1"
COUNTS = {0: 72, 1: 36}
STATIC_NODES = {
    *("Add", "Cast", "Concat", "Conv", "Div", "Gather", "Gemm", "LayerNormalization", "MatMul"),
    *("Mul", "ReduceL2", "ReduceMean", "Reshape", "Slice", "Softmax", "Split", "Squeeze", "TopK"),
    *("Gelu", "Sigmoid", "Transpose", "Unsqueeze"),
}


@pytest.fixture(scope="module", params=["siglip", "clip"])
def dual(request: pytest.FixtureRequest) -> Any:
    return load_dual(request.getfixturevalue(f"{request.param}_checkpoint"))


def load_dual(checkpoint: Path) -> Any:
    model = AutoModel.from_pretrained(checkpoint / "dual", dtype=torch.float32).eval()
    model.set_attn_implementation("eager")
    round_to_half(model)
    return model


@pytest.fixture(scope="module")
def graph_file(dual: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pruned vision graph of a square image."""
    graph = graph_of(dual, keep=parse_schedule(SCHEDULE, 3, 144))
    part = vision_part(graph, square())
    path: Path = tmp_path_factory.mktemp("graph") / "vision.onnx"
    with torch.no_grad():
        write_graph(part.module, part.inputs, part.outputs, path)
    return path


def graph_of(dual: Any, **options: Any) -> VisionTower:
    clip = hasattr(dual, "visual_projection")
    tower = ClipVision if clip else SiglipVision
    defaults: dict[str, Any] = {"feature_layers": [-2] if clip else [-1]}
    return tower(
        dual,
        positions=dual.vision_model.embeddings.position_embedding.weight[None],
        mean=HALF,
        std=HALF,
        **(defaults | options),
    )


def square() -> ImageSpec:
    return ImageSpec(
        width=48, height=48, patch=4, columns=12, rows=12, mean=HALF, std=HALF, pad=(0, 0, 0)
    )


def noise(seed: int, width: int = 48, height: int = 48) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)


def pixels_of(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def reference(dual: Any, pixels: Tensor) -> dict[str, Tensor]:
    """EViT's pruning written token by token over transformers' own modules."""
    tower = dual.vision_model
    clip = hasattr(tower, "pre_layrnorm")
    hidden = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)[0]
    if clip:
        hidden = torch.cat([tower.embeddings.class_embedding[None], hidden])
    hidden = hidden + tower.embeddings.position_embedding.weight
    hidden = tower.pre_layrnorm(hidden) if clip else hidden
    places: list[int | None] = list(range(144))
    states = [hidden]
    for number, layer in enumerate(tower.encoder.layers):
        mixed, attention = layer.self_attn(layer.layer_norm1(hidden)[None], attention_mask=None)
        hidden = hidden + mixed[0]
        if number in COUNTS:
            head, tokens = (hidden[:1], hidden[1:]) if clip else (hidden[:0], hidden)
            if clip:
                weights = attention[0].mean(dim=0)[0, 1:]
            else:
                normed = tower.post_layernorm(tokens)[None]
                weights = tower.head.attention(tower.head.probe, normed, normed)[1][0, 0]
            patches = [row for row, place in enumerate(places) if place is not None]
            best = sorted(patches, key=lambda row: -float(weights[row]))[: COUNTS[number]]
            dropped = [row for row in range(len(places)) if row not in best]
            fused = sum(weights[row] * tokens[row] for row in dropped)
            assert isinstance(fused, Tensor)
            hidden = torch.cat([head, *(tokens[row][None] for row in sorted(best)), fused[None]])
            places = [*(places[row] for row in sorted(best)), None]
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        states.append(hidden)
    if clip:
        last = tower.encoder.layers[-1]
        values = last.self_attn.v_proj(last.layer_norm1(states[-2][1:]))
        single = dual.visual_projection(tower.post_layernorm(last.self_attn.out_proj(values)))
        pooled = dual.visual_projection(tower.post_layernorm(hidden[0]))
        tokens = states[-2][1:]
    else:
        tokens = hidden
        normed = tower.post_layernorm(hidden)
        pooled, single = tower.head(normed[None])[0], tower.head(normed[:, None])
    return {
        "pooled": torch.nn.functional.normalize(pooled, dim=-1)[None],
        "tokens": tokens[None],
        "patches": torch.nn.functional.normalize(single, dim=-1)[None],
        "token_index": torch.tensor([-1 if place is None else place for place in places]),
    }


def test_a_pruned_graph_gives_what_the_reference_gives(graph_file: Path, dual: Any) -> None:
    engine = OnnxRuntimeEngine(graph_file)
    for seed in range(5):
        image = noise(seed)
        ours = engine.run({"image": image})
        theirs = reference(dual, pixels_of(image))
        assert ours["token_index"].tolist() == theirs["token_index"].tolist()
        for name in ("pooled", "tokens", "patches"):
            assert ours[name].shape == theirs[name].shape
            assert np.abs(ours[name] - theirs[name].numpy()).max() <= TOLERANCE


def test_the_graph_holds_static_nodes_only(graph_file: Path) -> None:
    model = onnx.load(graph_file)
    assert {node.op_type for node in model.graph.node} <= STATIC_NODES
    constants = {tensor.name for tensor in model.graph.initializer}
    best = [node for node in model.graph.node if node.op_type == "TopK"]
    assert len(best) == 2 * len(COUNTS)
    for node in best:
        assert node.input[1] in constants
        assert all(a.i == 1 for a in node.attribute if a.name == "sorted")
    inferred = onnx.shape_inference.infer_shapes(model)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        assert all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim)


def test_a_robot_with_a_pruned_bundle_knows_where_its_tokens_stand(
    photos: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language=None)
    options = ExportOptions(keep=SCHEDULE, calibration=photos, validate=False)
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    assert bundle.manifest.vision.keep == tuple(
        KeepStep(layer=layer, tokens=count + 1) for layer, count in COUNTS.items()
    )
    encoder = VisionEncoder(bundle)
    encoder.warm_up()
    image = noise(3, 64, 36)
    embedding = encoder.encode(Frame(image=image[0], stamp_ns=1), 0)
    expected = reference(load_dual(checkpoint), pixels_of(image))
    places = expected["token_index"].tolist()
    assert embedding.token_index.dtype == np.uint16
    assert embedding.token_index.tolist() == [*places[:-1], FUSED_TOKEN]
    assert np.abs(embedding.pooled - expected["pooled"][0].numpy()).max() <= TOLERANCE
    assert len(embedding.tokens) == bundle.manifest.vision.tokens == 37


@torch.no_grad()
def test_random_patches_are_the_same_in_each_image(dual: Any) -> None:
    keep = parse_schedule(SCHEDULE, 3, 144)
    images = [torch.from_numpy(np.full((1, 48, 48, 3), value, np.uint8)) for value in (9, 99)]
    found = {
        seed: [tuple(graph_of(dual, keep=keep, random_seed=seed)(i)[3].tolist()) for i in images]
        for seed in (0, 1)
    }
    assert found[0][0] == found[0][1] != found[1][0] == found[1][1]
    assert list(found[0][0][:-1]) == sorted(set(found[0][0][:-1]))
    assert len(found[0][0]) == 37


def test_layers_behind_the_features_are_not_pruned(dual: Any) -> None:
    clip = hasattr(dual, "visual_projection")
    late = (KeepStep(layer=2, tokens=40),)
    if clip:
        with pytest.raises(ExportError, match=r"at layer 2: .*layers 0 to 1 can be pruned"):
            graph_of(dual, keep=late)
    else:
        assert graph_of(dual, keep=late).keep == {2: 39}
    with pytest.raises(ExportError, match=r"at layer 1: .*layers 0 to 0 can be pruned"):
        graph_of(dual, feature_layers=[-1, 1], keep=(KeepStep(layer=1, tokens=9),))
    with pytest.raises(ExportError, match="no layer is left"):
        graph_of(dual, feature_layers=[0], keep=(KeepStep(layer=0, tokens=9),))


@given(data=st.data(), batch=st.integers(1, 3), leading=st.integers(0, 1), fused=st.booleans())
@settings(max_examples=60, deadline=None)
def test_kept_tokens_and_the_fused_one_hold_all(
    data: st.DataObject, batch: int, leading: int, fused: bool
) -> None:
    patches = data.draw(st.integers(2, 12))
    count = data.draw(st.integers(1, patches - 1))
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, leading + patches + fused, 5, generator=generator)
    weights = torch.rand(batch, patches + fused, generator=generator)
    places = torch.randperm(99, generator=generator)[:patches].sort().values
    index = places.expand(batch, -1)
    tokens, kept = prune(hidden, index, weights, count, leading=leading)
    assert tokens.shape == (batch, leading + count + 1, 5)
    assert torch.equal(tokens[:, :leading], hidden[:, :leading])
    for row in range(batch):
        rows = [places.tolist().index(place) for place in kept[row].tolist()]
        assert rows == sorted(rows)
        dropped = [token for token in range(patches + fused) if token not in rows]
        assert weights[row, rows].min() >= weights[row, dropped[: patches - count]].max()
        assert torch.equal(tokens[row, leading:-1], hidden[row, leading:][rows])
        expected = weights[row, dropped] @ hidden[row, leading:][dropped]
        torch.testing.assert_close(tokens[row, -1], expected)


def test_a_schedule_counts_as_evit_does() -> None:
    steps = parse_schedule("0.7@3,6,9", layers=12, tokens=196)
    assert [(step.layer, step.tokens) for step in steps] == [(3, 139), (6, 98), (9, 69)]
    assert parse_schedule("0.55@1", layers=2, tokens=100)[0].tokens == 56


@given(
    percent=st.integers(1, 99),
    layers=st.sets(st.integers(0, 11), min_size=1, max_size=4),
    tokens=st.integers(1, 1024),
)
def test_a_schedule_always_saves_tokens(percent: int, layers: set[int], tokens: int) -> None:
    text = f"{percent / 100}@{','.join(str(layer) for layer in sorted(layers))}"
    try:
        steps = parse_schedule(text, 12, tokens)
    except ExportError as error:
        assert "saves nothing" in str(error)
        return
    counts = [tokens, *(step.tokens for step in steps)]
    assert all(later < before for before, later in itertools.pairwise(counts))
    assert counts[1] == math.ceil(Fraction(percent, 100) * tokens) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.7@3,6,9", r"names layer 9; this vision tower has the layers 0 to 5"),
        ("0.7@-1,2", r"names layer -1"),
        ("0.7", "not a pruning schedule; give the share"),
        ("0.7@", "not a pruning schedule"),
        ("many@2", "not a pruning schedule"),
        ("1/0@2", "not a pruning schedule"),
        ("1@2", "must be between 0 and 1"),
        ("0@2", "must be between 0 and 1"),
        ("0.7@3,2", "must be in ascending order"),
        ("0.7@2,2", "must be in ascending order"),
        ("0.99@2,3", "saves nothing at layer 2, which gets 144 tokens"),
    ],
)
def test_a_bad_schedule_gets_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        parse_schedule(text, layers=6, tokens=144)


def predicted(block_ms: dict[int, float], keep: Sequence[KeepStep]) -> float:
    return sum(block_ms.values()) - predict_gain(block_ms, 6, 32, tuple(keep))


@given(
    width=st.integers(1, 12),
    overhead=st.just(0.0) | st.floats(0.0, 3.0),
    share=st.floats(0.1, 1.2),
)
@settings(max_examples=60, deadline=None)
def test_the_schedule_that_is_fitted_is_the_largest_that_meets_the_budget(
    width: int, overhead: float, share: float
) -> None:
    """A device that works in tiles, and on which each pruned graph has a price of its own."""
    block_ms = {count: float(math.ceil(count / width)) for count in range(32, 7, -1)}
    dense_ms = predicted(block_ms, ())
    budget = share * dense_ms

    def measure(keep: Sequence[KeepStep]) -> tuple[float, float]:
        return dense_ms, predicted(block_ms, keep) + (overhead if keep else 0.0)

    places = prunable_places(layers=6, prunable=5)
    assert places == [1, 3, 4]
    found = choose(block_ms, 6, places, 32, budget, measure)
    assert found == () or measure(found)[1] < dense_ms
    if share >= 1.0:
        assert found == ()
    elif not overhead and share < 0.97:
        # What is predicted comes true, so the first try is the last.
        meeting = [
            keep
            for keep in schedules(lower_edges(block_ms), places, 32)
            if measure(keep)[1] <= budget
        ]
        if meeting:
            assert measure(found)[1] <= budget
            assert tokens(found) == max(tokens(keep) for keep in meeting)


def tokens(keep: Sequence[KeepStep]) -> int:
    """Tokens of all six layers together."""
    left = {step.layer: step.tokens for step in keep}
    counts = [32]
    for layer in range(6):
        counts.append(left.get(layer, counts[-1]))
    return sum(counts[1:])


def test_lower_edges_are_where_fewer_tokens_begin_to_pay() -> None:
    block_ms = {64: 4.0, 60: 4.0, 48: 3.0, 47: 2.99, 40: 3.1, 32: 2.0}
    assert lower_edges(block_ms) == [64, 48, 32]


def test_a_budget_that_no_device_meets_still_gives_a_schedule_that_can_be_built(
    siglip_checkpoint: Path,
) -> None:
    """On this machine's own clock: the fastest schedule found, or none."""
    build = partial(graph_of, load_dual(siglip_checkpoint))
    keep = fit_to_device(build, square(), budget_ms=1e-6)
    assert all(18 <= step.tokens < 144 for step in keep)
    assert build(keep=keep).keep == {step.layer: step.tokens - 1 for step in keep}


def test_the_manifest_takes_falling_steps_only() -> None:
    fields: dict[str, Any] = {
        "family": "siglip",
        "tokens": 9,
        "token_width": 8,
        "embedding_width": 8,
    }
    steps = [KeepStep(layer=2, tokens=20), KeepStep(layer=1, tokens=9)]
    with pytest.raises(ValidationError, match="later layer and fewer tokens"):
        VisionSpec(**fields, keep=tuple(steps))
