# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `language` of a run: towers, decoders and bridges of all kinds learn from the truth."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.places import ROOT

pytest.importorskip("torch")

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.datasets.roadworld.files.shards import ShardSpec
from vlm_perception.datasets.roadworld.truth import QUESTIONS, SceneTruth
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.deploy.checkpoints.bundle_yaml import load_spec
from vlm_perception.deploy.checkpoints.load import load_checkpoint
from vlm_perception.training.distillation.language.dialogues import (
    ANSWER,
    CAPTION,
    Dialogues,
    Segment,
)
from vlm_perception.training.distillation.language.objective import LanguageObjective, choice_loss
from vlm_perception.training.distillation.language.taught import TaughtAnswers, TaughtCaptions
from vlm_perception.training.distillation.learned import read_learned
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.distillation.run import distil
from vlm_perception.training.distillation.teacher.language import Words
from vlm_perception.training.roadworld_words import build_tokenizer

SCENES = 8
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def write_shard(folder: Path, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """A shard as it is rendered, of noise."""
    random = np.random.default_rng(0)
    path = folder / ShardSpec(40, SCENES, 0.3, grid).name
    path.mkdir(parents=True)
    patches = grid[0] * grid[1]
    arrays: dict[str, Any] = {
        "images": random.integers(0, 256, (SCENES, size[1], size[0], 3), np.uint8),
        "coverage": random.integers(0, 9, (SCENES, patches, len(OBJECT_LABELS)), np.uint8),
        "distance": random.integers(0, 256, (SCENES, patches), np.uint8),
        "labels": random.random((SCENES, len(LABELS))) < 0.5,
        "attributes": np.zeros((SCENES, len(QUESTIONS)), np.uint8),
    }
    for name, values in arrays.items():
        np.save(path / f"{name}.npy", values)
    truth = SceneTruth((), {}, {name: choices[0] for name, (_, choices) in QUESTIONS.items()})
    (path / "truths.json").write_text(json.dumps([asdict(truth)] * SCENES))
    (path / "captions.json").write_text(json.dumps([["a red car at night"]] * SCENES))


def recipe(folder: Path, **language: Any) -> dict[str, Any]:
    return {
        "name": "words",
        "images": {"kind": "road-world", "first_seed": 40, "count": SCENES},
        "language": {
            "losses": {"caption": 1.0, "answers": 1.0},
            "training": {"steps": 2, "batch": 4, "micro_batch": 4, "rate": 0.01},
            "cache": str(folder / "cache"),
            **language,
        },
    }


def run(content: dict[str, Any], folder: Path, out: Path, only: str | None = "language") -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    with torch.compiler.set_stance("force_eager"):
        (made,) = distil(file, out, only=only)
    return made


def test_a_q_former_learns_before_a_decoder_that_goes_on(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    write_shard(tmp_path / "cache" / "shards-64x36", (64, 36), (16, 9))
    made = run(
        recipe(
            tmp_path,
            start=str(siglip_checkpoint),
            bridge={"kind": "q-former", "tokens": 12, "layers": 1},
            losses={"caption": 1.0, "answers": 1.0, "patches": 0.3},
        ),
        tmp_path,
        tmp_path / "out",
    )
    spec = load_spec(made)
    assert spec.bridge is not None
    assert (spec.bridge.kind, spec.bridge.tokens, spec.bridge.grid) == ("q-former", 12, (16, 9))
    assert [question.name for question in spec.questions] == list(QUESTIONS)
    source = load_checkpoint(made, "same", bridge=spec.bridge)
    trained = torch.load(made / "training" / "last.pt", weights_only=True)["module"]
    for name, weight in source.vlm.model.multi_modal_projector.state_dict().items():
        torch.testing.assert_close(weight, trained[f"bridge.{name}"], atol=1e-3, rtol=1e-3)
    before = LlavaForConditionalGeneration.from_pretrained(siglip_checkpoint / "vlm")
    assert not torch.equal(before.lm_head.weight.float(), source.vlm.lm_head.weight), (
        "the decoder learns, too"
    )
    # What the tower sees is computed once.
    (features,) = (tmp_path / "cache").glob("features-*.npy")
    assert np.load(features).shape == (SCENES, 144, 48)


def test_a_fresh_decoder_reads_a_clip_of_the_run(clip_checkpoint: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "cache" / "shards-48x48", (48, 48), (12, 12))
    tower = {"kind": "checkpoint", "path": str(clip_checkpoint)}
    training = {"steps": 1, "batch": 4}
    content = recipe(
        tmp_path,
        decoder=DECODER | {"model_type": "qwen2"},
        bridge={"kind": "average", "tokens": 9},
        losses={"caption": 1.0, "answers": 1.0, "locations": 1.0},
    )
    content["student"] = {
        "start": tower,
        "size": [48, 48],
        "losses": {"labels": 1.0},
        "training": training,
    }
    with pytest.raises(DistillationError, match="has none yet"):
        run(content, tmp_path, tmp_path / "out")
    shutil.copytree(clip_checkpoint, tmp_path / "out" / "student")
    made = run(content, tmp_path, tmp_path / "out")
    spec = load_spec(made)
    source = load_checkpoint(made, "same", bridge=spec.bridge)
    assert source.vlm.config.text_config.model_type == "qwen2"
    assert spec.locate == "paligemma"
    features = source.vlm.model.get_image_features(
        pixel_values=torch.randn(1, 3, 48, 48),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    assert features.pooler_output[0].shape == (9, 32)


def test_photographs_are_learned_by_a_teacher_s_words_alone(
    siglip_checkpoint: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    some, out = tmp_path / "photos", tmp_path / "out"
    some.mkdir()
    for file in sorted(photos.iterdir())[:2]:
        shutil.copy(file, some)
    questions = [
        {"name": "weather", "question": "what is the weather?", "choices": ["clear", "rain"]},
        {"name": "night", "question": "is it night?", "choices": ["yes", "no"]},
    ]
    content = recipe(
        tmp_path,
        decoder=DECODER | {"model_type": "llama"},
        tokenizer="teacher",
        bridge={"kind": "q-former", "tokens": 12, "layers": 1},
        losses={"taught_caption": 1.0, "taught_answers": 1.0, "taught_patches": 0.3},
        training={"steps": 2, "batch": 2, "micro_batch": 2},
    )
    content["images"] = {"kind": "folder", "path": str(some)}
    content["views"] = {"count": 2, "least_scale": 0.6}
    content["teacher"] = {
        "encoder": str(siglip_checkpoint),
        "labels": ["car"],
        "language": {"kind": "checkpoint", "path": str(ROOT / "checkpoints/roadworld-nano")},
        "caption": "describe the scene",
        "questions": questions,
    }
    content["student"] = {
        "start": {"kind": "checkpoint", "path": str(siglip_checkpoint)},
        "size": [64, 36],
        "keep": "0.7@1",
        "losses": {"labels": 1.0},
        "training": {"steps": 1, "batch": 2},
    }
    run(content, tmp_path, out, "teacher")
    shutil.copytree(siglip_checkpoint, out / "student")
    made = run(content, tmp_path, out)
    assert "4 of 4 captions are whole, and 4 have probabilities" in capfd.readouterr().err
    spec = load_spec(made)
    assert [question.model_dump(exclude={"temperature"}) for question in spec.questions] == [
        each | {"choices": tuple(each["choices"])} for each in questions
    ]
    assert (
        load_checkpoint(made, "same", bridge=spec.bridge).vlm.config.text_config.hidden_size == 32
    )
    # The tower has seen both views of each image, whole and pruned, and no scene of another world.
    kept = sorted(file.name.split(".", 1)[1] for file in (tmp_path / "cache").iterdir())
    assert kept == ["npy", "npy", "places.npy"]
    assert len(read_learned(made / "dual").images) == 2
    content["language"]["losses"] |= {"answers": 1.0}
    with pytest.raises(DistillationError, match="answers needs the truth of rendered images"):
        run(content, tmp_path, tmp_path / "other")


def test_a_teacher_s_tokens_count_where_they_are_the_student_s(siglip_checkpoint: Path) -> None:
    words = PreTrainedTokenizerFast.from_pretrained(siglip_checkpoint / "vlm")
    dialogues = Dialogues(words, [], ())

    def said(caption: str, tokens: tuple[str, ...], *answers: float, ended: bool = True) -> Words:
        likely = tuple(np.log(np.linspace(0.9, 0.5, len(tokens))).tolist())
        return Words(caption, ended, tokens, likely, {"weather": answers})

    views = [[(0, 0)], [(1, 0)], [(2, 0)]]
    known = {
        (0, 0): said("a car", (" ", "a", " car", "")),
        (1, 0): said("a car", ("a c", "ar")),
        (2, 0): said("a car and", ("a", " car", " and"), ended=False),
    }
    captions = TaughtCaptions(views, known, dialogues, words)
    assert (captions.usable, captions.soft) == (2, 1)
    (soft,), (hard,) = (captions.segments(i, np.random.default_rng(0)) for i in (0, 1))
    assert soft.answer == hard.answer == dialogues.answer("a car")
    np.testing.assert_allclose(soft.shares, np.linspace(0.9, 0.5, 4)[1:])
    assert hard.shares is None
    assert not captions.says(2)
    with pytest.raises(DistillationError, match="no caption that it ended itself"):
        TaughtCaptions(views[2:], known, dialogues, words)

    asked = {"name": "weather", "question": "what is the weather?", "choices": ("clear", "rain")}
    question = QuestionSpec(**asked)
    with pytest.raises(DistillationError, match=r"answered none of `teacher\.questions`"):
        TaughtAnswers(views, known, dialogues, [question])
    known[1, 0] = said("", (), 0.3, 0.7)
    answers = TaughtAnswers(views, known, dialogues, [question])
    assert [answers.says(scene) for scene in range(3)] == [False, True, False]
    choices = answers.segments(1, np.random.default_rng(0))
    assert [choice.among for choice in choices] == [(1, 0.3), (1, 0.7)]
    # All choices of a question are compared, or none.
    for room, placed in ((0, 2), (-1, 0)):
        dialogues.length = answers.room + room
        assert int(dialogues.pack([choices], 5).segments.max()) == placed
    lower = Dialogues(build_tokenizer(), [], ())
    with pytest.raises(DistillationError, match=r"choices Red and red .* are the same tokens"):
        TaughtAnswers(views, known, lower, [QuestionSpec(**asked | {"choices": ("Red", "red")})])


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ({"start": "missing"}, "no checkpoint directory with dual/ and vlm/"),
        ({}, "either `decoder` or `start`"),
        ({"decoder": {"model_type": "gpt2"}}, "no vision tower"),
        ({"start": "x", "losses": {"taught_patches": 1.0}}, "keys and values of a q-former"),
        ({"start": "x", "losses": {"taught_answers": 1.0}}, "name it in `teacher.language`"),
        ({"start": "x", "training": {"steps": 1, "batch": 512}}, "above `micro_batch` 64"),
        ({"start": "x", "training": {"steps": 1, "batch": 64}}, "fewer than the 64 of a batch"),
    ],
)
def test_what_cannot_be_trained_is_said(language: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match=sentence):
        run(recipe(tmp_path, **language), tmp_path, tmp_path / "out")


def test_a_run_does_not_go_on_with_another_recipe(tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="no checkpoint directory"):
        run(recipe(tmp_path, start="missing"), tmp_path, tmp_path / "out")
    with pytest.raises(DistillationError, match=r"start was 'missing' and is 'other' now"):
        run(recipe(tmp_path, start="other"), tmp_path, tmp_path / "out")


def test_a_choice_scores_by_the_mean_over_its_tokens_as_on_the_robot(
    siglip_checkpoint: Path,
) -> None:
    """Two choices of different lengths, packed as segments of one typed question."""
    model = LlavaForConditionalGeneration.from_pretrained(siglip_checkpoint / "vlm")
    words = PreTrainedTokenizerFast.from_pretrained(siglip_checkpoint / "vlm")
    dialogues = Dialogues(words, [], (CAPTION, ANSWER))
    question = dialogues.prompt("what is the weather")
    segments = [
        Segment(question, dialogues.answer(choice), ANSWER, among=(1, share))
        for choice, share in (("clear", 0.25), ("a long answer", 0.75))
    ]
    caption = dialogues.segment("describe the scene", "a car", CAPTION)
    packed = dialogues.pack([[caption, *segments]], 5)
    objective = LanguageObjective(model, [words.bos_token_id], places=False)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        found = objective(torch.randn(1, 4, 48), packed)
        apart = objective(torch.randn(1, 4, 48), dialogues.pack([[caption]], 5))
    assert found["taught_answers"] > 0.0 == apart["taught_answers"]
    # By hand: any likelihoods of the targets.
    asked = packed.targets >= 0
    likely = -torch.rand(int(asked.sum()))
    owner = packed.segments[asked]
    means = torch.stack([likely[owner == 2].mean(), likely[owner == 3].mean()])
    expected = -(torch.tensor([0.25, 0.75]) * means.log_softmax(0)).sum()
    torch.testing.assert_close(choice_loss(likely, packed, asked), expected)
