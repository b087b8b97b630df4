# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A dual encoder learns from a curated set, by its own loss, and can be broken off at any time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from rich.console import Console

pytest.importorskip("torch")

import torch
from torch.nn import functional

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.curation import run as curation
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, find_final
from vlm_perception.deploy.checkpoints.load import load_checkpoint, load_dual
from vlm_perception.training import captions, loop
from vlm_perception.training.captions import (
    CaptionObjective,
    Recipe,
    matches,
    sigmoid_losses,
    softmax_losses,
    train,
)
from vlm_perception.training.loop import Schedule

GERMAN = {"red": "rot", "green": "grün", "yellow": "gelb", "night": "Nacht"}
COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "yellow": (220, 200, 0), "night": (9, 9, 20)}
FEW = Recipe(3, Schedule(steps=15, batch=6, peak_rate=2e-3))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of plain images, whose captions name their colours."""
    root = tmp_path_factory.mktemp("coloured")
    (root / "images").mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(32):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        noise = rng.integers(-8, 8, (48, 48, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        for language, text in {"en": name, "de": GERMAN[name]}.items():
            line = {"image": f"{number}.png", "captions": [text], "language": language}
            lines.append(json.dumps(line))
    (root / "images" / "captions.jsonl").write_text("\n".join(lines))
    recipe = {
        "sources": [{"kind": "captions", "path": "images", "unrelated": True}],
        "filter": {"min_side": 1, "phash_distance": None},
        "final": {"splits": {"train": 1.0}},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    curation.run(root, curation.Options(), Console(quiet=True))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_the_loss_falls_and_a_broken_run_is_an_unbroken_one(
    family: str,
    coloured: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = str(request.getfixturevalue(f"{family}_checkpoint"))
    monkeypatch.setattr(loop, "SAVE_EVERY", 5)
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    trained = train(checkpoint, coloured, tmp_path / "whole", FEW)
    log = [json.loads(line) for line in (tmp_path / "whole/work/log.jsonl").open()]
    parts = captions.LOSS_WEIGHTS["sigmoid" if family == "siglip" else "softmax"]
    first, last = (sum(record[part] for part in parts) for record in (log[0], log[-1]))
    assert last < 0.85 * first
    objective = captions.CaptionObjective
    losses = objective.losses
    monkeypatch.setattr(
        objective, "losses", lambda self, step: losses(self, step) if step < 8 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        train(checkpoint, coloured, tmp_path / "broken", FEW)
    monkeypatch.setattr(objective, "losses", losses)
    again = train(checkpoint, coloured, tmp_path / "broken", FEW)
    _, one = load_dual(trained / "dual")
    _, other = load_dual(again / "dual")
    assert load_checkpoint(trained, "auto").language_tower is not None
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    with pytest.raises(FinalSetError, match="another seed"):
        train(checkpoint, coloured, tmp_path / "broken", Recipe(4, FEW.schedule))


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_the_scale_is_that_of_the_family_and_the_texts_those_of_the_languages(
    family: str, coloured: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = FinalSplit(*find_final(coloured, "train"))
    checkpoint = request.getfixturevalue(f"{family}_checkpoint") / "dual"
    objective = CaptionObjective(checkpoint, split, FEW)
    drawn: list[str] = []

    def watched(own: list[list[str]], texts: list[str]) -> torch.Tensor:
        drawn.extend(texts)
        return matches(own, texts)

    monkeypatch.setattr(captions, "matches", watched)
    scale = objective.model.logit_scale
    torch.nn.init.constant_(scale, np.log(117))
    sum(objective.losses(0).values()).backward()
    # What training sees is what is saved, and is moved by it.
    assert scale.exp().item() == pytest.approx(117 if family == "siglip" else 100, rel=1e-4)
    assert scale.grad != 0
    assert set(drawn) <= set(COLOURS)


def test_what_cannot_be_learned_from_is_refused(
    siglip_checkpoint: Path, coloured: Path, tmp_path: Path
) -> None:
    with pytest.raises(VlmPerceptionError, match="no curated set"):
        train(str(siglip_checkpoint), tmp_path, tmp_path / "out", FEW)
    with pytest.raises(FinalSetError, match="no captions in fr"):
        train(str(siglip_checkpoint), coloured, tmp_path / "2", replace(FEW, languages=("fr",)))


def test_a_text_matches_every_image_that_has_it() -> None:
    same = matches([["bus", "car"], ["car"], ["tree"]], ["bus", "car", "tree"])
    assert same.tolist() == [[True, True, False], [False, True, False], [False, False, True]]
    # Without any difference in the logits the loss is that of equal chances, both ways.
    assert [float(each) for each in softmax_losses(torch.zeros(3, 3), same).values()] == [
        pytest.approx(np.log(3))
    ] * 2


def test_losses_are_the_published_ones_where_all_texts_differ() -> None:
    logits, same = torch.randn(5, 5), torch.eye(5, dtype=torch.bool)
    found = softmax_losses(logits, same)
    target = torch.arange(5)
    assert torch.allclose(found["image_to_text"], functional.cross_entropy(logits, target))
    assert torch.allclose(found["text_to_image"], functional.cross_entropy(logits.T, target))
    signs = 2 * torch.eye(5) - 1
    whole = -functional.logsigmoid(signs * logits).sum() / 5
    assert torch.allclose(sum(sigmoid_losses(logits, same).values()), whole)
