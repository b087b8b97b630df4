# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A student's gain is told from chance, over the seeds of its training and over images."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.places import CONFIG
from typer.testing import CliRunner

pytest.importorskip("sklearn")
pytest.importorskip("torch")

from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from vlm_perception.cli import app
from vlm_perception.evaluation.distillation.arm import Arm
from vlm_perception.evaluation.distillation.quantized import FP32, QAT, as_json, judge, key
from vlm_perception.evaluation.distillation.seeds import BOTH, IMAGES, BySeed, interval
from vlm_perception.evaluation.distillation.study import SeededRun, StudyError, read_runs
from vlm_perception.evaluation.distillation.tag_study import ARMS, compare, unlike
from vlm_perception.evaluation.distillation.tags import CHANCE, macro_ap
from vlm_perception.evaluation.distillation.words import ANSWERS, CAPTIONS, Words, word_figures
from vlm_perception.training.distillation.recipe import read_recipe

SEEDS, SCENES, DRAWS = 5, 200, 200
BY_SEED, BY_SCENE = 0.02, 0.25
"""How far models differ by seed alone, and scenes alone."""


def drawn_arms(rng: np.random.Generator, seeds: int, gain: float) -> tuple[BySeed, BySeed]:
    """Two arms as they are judged on drawn scenes, of which the second is better by `gain`."""
    hard = rng.normal(scale=BY_SCENE, size=SCENES)
    weights = rng.multinomial(SCENES, np.full(SCENES, 1 / SCENES), size=DRAWS) / SCENES

    def arm(mean: float) -> BySeed:
        seed = rng.normal(scale=BY_SEED, size=(seeds, 1))
        scores = mean + seed + hard + rng.normal(scale=BY_SCENE, size=(seeds, SCENES))
        return BySeed(scores.mean(axis=1), scores @ weights.T)

    return arm(0.8), arm(0.8 + gain)


@pytest.mark.parametrize("by_seed", [True, False])
def test_an_interval_holds_the_truth_as_often_as_it_says(by_seed: bool) -> None:
    """Of a difference seed by seed, and of a mean that is known to be 0.8."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        first, second = drawn_arms(rng, SEEDS, 0.03)
        figure = second.with_(first, np.subtract) if by_seed else first
        found = interval(figure)
        assert found.over == BOTH
        held.append(found.low <= (0.03 if by_seed else 0.8) <= found.high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_few_seeds_are_marked_and_their_interval_is_over_images_alone() -> None:
    first, second = drawn_arms(np.random.default_rng(2), 2, 0.0)
    found = interval(second.with_(first, np.subtract))
    assert (found.over, found.seeds) == (IMAGES, 2)
    spread = (second.drawn - first.drawn).mean(axis=0).std(ddof=1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=1e-3)


def tagged(
    rng: np.random.Generator, skill: float, present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return skill * present + rng.normal(size=present.shape)


@pytest.mark.parametrize(("gain", "told"), [(0.0, False), (0.4, True)])
def test_a_gain_over_image_labels_is_told_where_there_is_one(gain: float, told: bool) -> None:
    rng = np.random.default_rng(3)
    present = rng.random((SCENES, 6)) < 0.3
    names = {"teacher": 2.0, "student": 1.5 + gain, "image_labels": 1.5}
    scores = {
        f"{name}-{seed}": tagged(rng, skill, present)
        for name, skill in names.items()
        for seed in range(1 if name == "teacher" else SEEDS)
    }
    found = macro_ap(scores, present, DRAWS)
    right = np.mean(
        [average_precision_score(present[:, i], scores["teacher-0"][:, i]) for i in range(6)]
    )
    assert found["teacher-0"].whole[0] == pytest.approx(right)
    assert found[CHANCE].whole[0] == pytest.approx(present.mean())

    def arm(name: str, seeds: int) -> Arm:
        each = [found[f"{name}-{seed}"] for seed in range(seeds)]
        return Arm(
            tuple(range(seeds)),
            BySeed(
                np.concatenate([of.whole for of in each]), np.concatenate([of.drawn for of in each])
            ),
        )

    arms = {name: arm(name, 1 if name == "teacher" else SEEDS) for name in names}
    results = {each.comparison.key: each for each in compare(arms, found[CHANCE], [])}
    assert results.keys() == {"student_of_teacher", "student_over_image_labels"}
    assert results["student_over_image_labels"].reached is told
    kept = results["student_of_teacher"].interval
    student, chance = np.mean(arms["student"].figure.whole), present.mean()
    assert kept.value == pytest.approx((student - chance) / (right - chance))
    assert kept.low < kept.value < kept.high
    unfair = compare(arms, found[CHANCE], ["image_labels"])
    assert [each.reached for each in unfair if each.comparison.second == "image_labels"] == [None]


def test_captions_and_answers_are_judged_as_in_the_exam_of_the_road_world() -> None:
    rng = np.random.default_rng(4)
    true = Words(rng.integers(0, 3, (80, 8)), rng.random((80, 14)) < 0.3)
    wrong = rng.random((80, 1)) < 0.3
    said = Words(np.where(wrong, 0, true.choices), true.named ^ (rng.random((80, 14)) < 0.1))
    found = word_figures({"ours": said}, true, DRAWS)
    captions, answers = found[CAPTIONS], found[ANSWERS]
    blind = np.broadcast_to(true.named.mean(axis=0) > 1 / 3, true.named.shape)
    for name, named in (("ours", said.named), (CHANCE, blind)):
        right = f1_score(true.named.ravel(), named.ravel())
        assert captions[name].whole[0] == pytest.approx(right)
    each = map(balanced_accuracy_score, true.choices.T, said.choices.T)
    assert answers["ours"].whole[0] == pytest.approx(np.mean(list(each)))
    assert 0.3 < answers[CHANCE].whole[0] < 0.5
    assert answers["ours"].drawn.shape == (1, DRAWS)


@pytest.mark.parametrize(
    ("calibrated", "trained", "won_back", "reached"),
    [(0.90, 0.94, 0.8, True), (0.90, 0.92, 0.4, False), (0.949, 0.949, 0.0, True)],
)
def test_training_is_compared_with_the_best_calibration(
    calibrated: float, trained: float, won_back: float, reached: bool
) -> None:
    run = SeededRun(read_recipe(CONFIG / "distillation" / "hard.yaml"), CONFIG)
    images = np.random.default_rng(5).normal(scale=0.001, size=(1, DRAWS))
    values = {FP32: 0.95, "min-max": 0.7, "99.9 %": calibrated, QAT: trained}
    figures = {
        key(run, case): BySeed(np.array([value]), value + images) for case, value in values.items()
    }
    found = judge([run], figures)
    assert found.best == "99.9 %"
    assert found.won_back == pytest.approx(won_back)
    assert found.reached is reached
    (told,) = as_json([found]).values()
    assert isinstance(told, dict)
    assert told["ptq"]["value"] == calibrated
    assert told["ptq_by_method"]["least squares"] is None


def begun(folder: Path, name: str, seed: int, steps: int = 100) -> None:
    folder.mkdir(parents=True)
    training = {"steps": steps, "batch": 256}
    start = {"kind": "cut", "vision_layers": 6, "text_layers": 2}
    recipe = {
        "name": name,
        "seed": seed,
        "images": {"kind": "road-world"},
        "student": {
            "start": start,
            "size": [320, 180],
            "losses": {"affinity": 1.0},
            "training": training,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))


def test_runs_are_found_by_their_recipes_and_unlike_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no runs"):
        read_runs(tmp_path)
    begun(tmp_path / "distilled" / "seed-1", "distilled", 1)
    begun(tmp_path / "distilled" / "seed-0", "distilled", 0)
    begun(tmp_path / "labels", "image-labels", 0, steps=50)
    runs = read_runs(tmp_path)
    assert [run.recipe.seed for run in runs["distilled"]] == [0, 1]
    assert unlike({"student": runs["distilled"], "image_labels": runs["image-labels"]}) == {
        "image_labels": ["student.training.steps was 100 and is 50 now"]
    }
    (tmp_path / "teacher").mkdir()
    (runs["distilled"][0].folder / "recipe_folder").write_text(f"{tmp_path / 'labels'}\n")
    assert runs["distilled"][0].place("../teacher") == tmp_path / "labels" / ".." / "teacher"
    assert runs["distilled"][1].place("../elsewhere") is None
    begun(tmp_path / "distilled" / "seed-2", "distilled", 2, steps=50)
    with pytest.raises(StudyError, match=r"student\.training\.steps was 100 and is 50 now"):
        read_runs(tmp_path)


def test_the_recipes_that_ship_are_recipes_and_their_arms_are_alike() -> None:
    files = sorted((CONFIG / "distillation").rglob("*.yaml"))
    recipes = {file.stem: read_recipe(file) for file in files}
    assert all(recipe.name == stem for stem, recipe in recipes.items())
    assert recipes.keys() >= {*ARMS.values(), "street"}
    runs = {key: [SeededRun(recipes[name], CONFIG)] for key, name in ARMS.items()}
    assert unlike(runs) == {}


def test_the_keys_that_are_commented_and_documented_make_recipes(tmp_path: Path) -> None:
    example = (CONFIG / "distillation" / "street.yaml").read_text()
    before, after = example.split("\n# language:\n")
    whole = "\n".join([before, "language:", *(line[2:] for line in after.splitlines())])
    spoken = re.findall(r"^  # (language: \{.*)$", example, re.MULTILINE)
    assert len(spoken) == 2
    texts = [whole.replace("teacher:\n", f"teacher:\n  {line}\n", 1) for line in spoken]
    document = (CONFIG.parent / "docs" / "distillation.md").read_text()
    texts += re.findall(r"^    name: .*\n(?:    .*\n)*", document, re.MULTILINE)
    assert len(texts) == 4
    file = tmp_path / "recipe.yaml"
    for text in texts:
        file.write_text(textwrap.dedent(text))
        read_recipe(file)


def test_several_recipes_are_read_before_the_first_run_begins(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["distil", "--example"])
    assert shown.output == (CONFIG / "distillation" / "street.yaml").read_text()
    file, wrong = tmp_path / "street.yaml", tmp_path / "wrong.yaml"
    file.write_text(shown.output)
    wrong.write_text("name: wrong\n")
    refused = CliRunner().invoke(
        app, ["distil", str(file), str(wrong), "--seeds", "2", "--out", str(tmp_path / "out")]
    )
    assert refused.exit_code == 2
    assert "wrong.yaml is not a recipe" in refused.output.replace("\n", "")
    assert not (tmp_path / "out").exists()
    assert "distil --example" in CliRunner().invoke(app, ["distil"]).output
