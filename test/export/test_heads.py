# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Head pruning: the least important heads go, and a graph without them gives what zeros give."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.checkpoints import make_checkpoint
from torch import Tensor
from transformers import AutoModel

from vlm_perception.deploy.compression.gates import importance
from vlm_perception.deploy.compression.heads import prune_heads, switch_off
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.modeling.towers.clip import ClipVision
from vlm_perception.modeling.towers.siglip import SiglipVision
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import Attention, blocks_of, live_heads

HALF = (0.5, 0.5, 0.5)
HEADS, LAYERS = 3, 3


@pytest.fixture(params=["siglip", "clip"])
def dual(request: pytest.FixtureRequest) -> Any:
    checkpoint: Path = request.getfixturevalue(f"{request.param}_checkpoint")
    return AutoModel.from_pretrained(checkpoint / "dual", dtype=torch.float32).eval()


def graph_of(dual: Any) -> VisionTower:
    tower = ClipVision if dual.config.model_type == "clip" else SiglipVision
    return tower(
        dual,
        positions=dual.vision_model.embeddings.position_embedding.weight[None],
        mean=HALF,
        std=HALF,
        feature_layers=[-1],
    )


def attentions_of(dual: Any) -> list[Attention]:
    return [block.attention for block in blocks_of(dual.vision_model.encoder)]


def noise(count: int, seed: int = 0) -> Tensor:
    shape = (count, 48, 48, 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@torch.no_grad()
def test_a_sliced_graph_gives_what_a_zeroed_checkpoint_gives(dual: Any) -> None:
    """Against transformers with the zeros; whole heads stay in the checkpoint, not in the graph."""
    for attention, heads in zip(attentions_of(dual), ([0], [1, 2], []), strict=True):
        switch_off(attention, heads)
    graph = graph_of(dual)
    sliced: list[Any] = list(graph.layers.attentions)
    assert [attention.heads for attention in sliced] == [2, 1, 3]
    assert sliced[1].weight.shape == (3 * 16, 48)
    assert sliced[1].out.weight.shape == (48, 16)
    images = noise(1)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    theirs = dual.get_image_features(pixel_values=pixels).pooler_output
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(graph(images)[0], theirs, atol=2e-6, rtol=0)


def test_the_checkpoint_keeps_its_shapes_and_loads_again(dual: Any, tmp_path: Path) -> None:
    switch_off(attentions_of(dual)[0], [2])
    dual.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert live_heads(attentions_of(again)[0]) == [0, 1]
    assert not attentions_of(again)[0].query.weight[32:48].any()
    images = noise(1)
    assert torch.equal(graph_of(again)(images)[0], graph_of(dual)(images)[0])


def test_a_layer_without_any_live_head_keeps_one(dual: Any) -> None:
    switch_off(attentions_of(dual)[1], range(HEADS))
    graph = graph_of(dual)
    assert graph.layers.attentions[1].heads == 1
    assert bool(torch.isfinite(graph(noise(1))[0]).all())


def test_importance_is_the_slope_of_the_outputs_at_a_gate(dual: Any) -> None:
    """Heads ranked by the cost of really removing each alone come in nearly the same order."""
    # Of few images the estimate is a matter of chance: it comes of random directions.
    images = noise(32)
    graph = graph_of(dual)
    gates = [torch.ones(HEADS) for _ in range(LAYERS)]
    readers = [attention.out for attention in graph.layers.attentions]
    found = torch.cat(importance(graph, readers, gates, images, torch.Generator().manual_seed(0)))
    assert found.shape == (LAYERS * HEADS,)
    cost = []
    with torch.no_grad():
        dense = graph(images)
        for layer in range(LAYERS):
            for head in range(HEADS):
                without = copy.deepcopy(dual)
                switch_off(attentions_of(without)[layer], [head])
                pooled, tokens = graph_of(without)(images)[:2]
                moved = (pooled - dense[0]).square().sum()
                norm = dense[1].flatten(1).norm(dim=1)[:, None, None]
                cost.append(float(moved + ((tokens - dense[1]) / norm).square().sum()))
    order = np.corrcoef(
        np.argsort(np.argsort(cost)), np.argsort(np.argsort(found.detach().numpy()))
    )
    assert order[0, 1] > 0.6


def test_the_least_important_heads_go_step_by_step(dual: Any) -> None:
    images = noise(8)
    steps = prune_heads(attentions_of(dual), graph_of(dual), images, share=0.6)
    left = [sum(step.heads) for step in steps]
    assert left == [8, 7, 6]
    assert all(min(step.heads) >= 1 for step in steps)
    assert [len(live_heads(a)) for a in attentions_of(dual)] == list(steps[-1].heads)
    assert 1.0 > steps[0].cosine_mean > steps[-1].cosine_mean
    assert steps[-1].cosine_min <= steps[-1].cosine_mean


def test_each_layer_keeps_a_head_however_few_are_asked_for(dual: Any) -> None:
    steps = prune_heads(attentions_of(dual), graph_of(dual), noise(4), share=0.01)
    assert steps[-1].heads == (1, 1, 1)
    assert prune_heads(attentions_of(dual), graph_of(dual), noise(4), share=0.01) == []


def test_an_export_without_some_heads_is_smaller_and_says_what_it_cost(
    photos: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language=None)
    options = ExportOptions(heads=0.5, calibration=photos, validate=False)
    bundle = export_bundle(checkpoint, tmp_path / "bundle", options)
    heads = bundle.manifest.vision.head_steps[-1].heads
    assert sum(heads) == 5
    graph = onnx.load(bundle.file("vision.onnx")).graph
    rows = sorted(t.dims[0] for t in graph.initializer if len(t.dims) == 2 and t.dims[1] == 48)
    for count in heads:
        assert 3 * 16 * count in rows
    assert 3 * 16 * HEADS not in rows or HEADS in heads
