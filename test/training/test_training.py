# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the student is taught is what is true, and training can be broken off at any time."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from support.streets import PROPERTY

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipModel,
)

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.files.shards import (
    NO_DISTANCE,
    RENDER_SIZE,
    Shard,
    ShardSpec,
    open_shard,
    render_shards,
)
from vlm_perception.datasets.roadworld.instructions import AFTER, BEFORE, INSTRUCTIONS
from vlm_perception.datasets.roadworld.location_phrases import Asked
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.truth import (
    CAPTION_PROMPT,
    QUESTIONS,
    ObjectTruth,
    SceneTruth,
    describe,
    presence_question,
)
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.evaluation.tasks.roadworld import run as evaluate_roadworld
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.modeling.towers.siglip import SiglipVision
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.training import roadworld_nano
from vlm_perception.training.distillation.language.dialogues import (
    INSTRUCTION,
    Dialogues,
    Packed,
    balancing_weights,
    block_mask,
)
from vlm_perception.training.distillation.language.objective import LanguageObjective
from vlm_perception.training.distillation.learned import Learned, read_learned
from vlm_perception.training.distillation.losses.true import POSITIVE_PERCENT, true_targets
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    RoadWorldImages,
    read_recipe,
)
from vlm_perception.training.distillation.student.result import label_specs
from vlm_perception.training.locations import with_locations
from vlm_perception.training.loop import SAVE_EVERY, Schedule, fit
from vlm_perception.training.roadworld_nano import recipe_file
from vlm_perception.training.roadworld_words import ATTRIBUTE_PHRASES, INPUT_SIZE, build_tokenizer
from vlm_perception.training.tower import patch_embeddings, see
from vlm_perception.types import Frame

GRID = (16, 9)
PATCHES = GRID[0] * GRID[1]
PREFIX = 1 + PATCHES


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def with_places(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_locations(tokenizer)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train roadworld-nano` makes in two steps of a small student on a few scenes."""
    folder = tmp_path_factory.mktemp("nano")
    content = yaml.safe_load(recipe_file().read_text())
    student, language = content["student"], content["language"]
    content["images"] |= {"count": 8, "easy": 8}
    student["start"]["vision"] |= {"hidden_size": 48, "num_hidden_layers": 2}
    student["start"]["text"] |= {"hidden_size": 48, "num_hidden_layers": 1, "projection_size": 48}
    student["keep"] = "0.7@1"
    student["held_out"]["count"] = 20
    language["images"]["count"] = 4
    language["decoder"] |= {"hidden_size": 48, "num_hidden_layers": 1}
    for part in (student, language):
        part["training"] |= {"steps": 20 if part is student else 4, "batch": 4}
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        patch.setattr(roadworld_nano, "recipe_file", lambda: recipe)
        return roadworld_nano.train(folder / "out", seed=3)


@pytest.fixture(scope="module")
def student(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with random weights, large enough for every input to change the output."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("random") / "checkpoint")
    dual, vlm = opened(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for model in (dual, vlm):
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=1.2 * weight.shape[1] ** -0.5)
    vlm.model.vision_tower.load_state_dict(dual.vision_model.state_dict())
    dual.save_pretrained(folder / "dual")
    vlm.save_pretrained(folder / "vlm")
    return folder


def opened(checkpoint: Path) -> tuple[SiglipModel, LlavaForConditionalGeneration]:
    dual = SiglipModel.from_pretrained(checkpoint / "dual", dtype=torch.float32)
    vlm = LlavaForConditionalGeneration.from_pretrained(checkpoint / "vlm", dtype=torch.float32)
    return dual.eval(), vlm.eval()


def invented_shard(scenes: int) -> Shard:
    """Random truth; a patch is bright where the first label covers it, and black elsewhere."""
    rng = np.random.default_rng(0)
    coverage = np.zeros((scenes, PATCHES, len(OBJECT_LABELS)), np.uint8)
    coverage[..., 0] = rng.choice((0, 60), (scenes, PATCHES))
    coverage[..., 1] = rng.integers(0, 2 * POSITIVE_PERCENT, (scenes, PATCHES))
    patch = INPUT_SIZE[0] // GRID[0]
    bright = coverage[..., 0].reshape(scenes, GRID[1], GRID[0])
    pixels = bright.repeat(patch, axis=1).repeat(patch, axis=2)[..., None].repeat(3, axis=3)
    drawn = [rng.integers(len(choices), size=scenes) for _, choices in QUESTIONS.values()]
    truths = [
        SceneTruth(
            (ObjectTruth("cone", (0, 0, 1, 1), 0.01, 1.0, 9.0, 2.0 if i % 2 else -2.0),),
            {"cone": 0.01},
            {
                name: choices[column[i]]
                for column, (name, (_, choices)) in zip(drawn, QUESTIONS.items(), strict=True)
            },
        )
        for i in range(scenes)
    ]
    return Shard(
        pixels,
        coverage,
        np.where(coverage[..., 0] > 0, 20, NO_DISTANCE).astype(np.uint8),
        rng.random((scenes, len(LABELS))) < 0.4,
        np.stack(drawn, axis=1).astype(np.uint8),
        [[f"a clear day on a straight road with {'a car and ' * i}a bus"] for i in range(scenes)],
        truths,
    )


@torch.no_grad()
def test_the_projector_is_trained_on_what_llava_reads(student: Path) -> None:
    """With pruning and without."""
    dual, vlm = opened(student)
    image = torch.randint(0, 256, (1, INPUT_SIZE[1], INPUT_SIZE[0], 3), dtype=torch.uint8)
    pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1
    for keep in ((), parse_schedule("0.5@1", 2, PATCHES)):
        graph = SiglipVision(
            dual,
            positions=dual.vision_model.embeddings.position_embedding.weight[None],
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            feature_layers=[-1],
            keep=keep,
        )
        seen = see(dual.vision_model, pixels, keep)
        torch.testing.assert_close(seen.features, graph(image)[1], atol=1e-3, rtol=1e-3)
    features = see(vlm.model.vision_tower, pixels).features
    theirs = vlm.get_image_features(pixel_values=pixels).pooler_output[0]
    projected = vlm.model.multi_modal_projector(features)[0]
    torch.testing.assert_close(projected, theirs, atol=1e-4, rtol=1e-4)


def test_training_calibration_and_exam_share_no_scene() -> None:
    recipe = read_recipe(recipe_file())
    assert isinstance(recipe.images, RoadWorldImages)
    assert recipe.student is not None
    assert recipe.language is not None
    parts = (recipe.images, recipe.student.held_out, recipe.language.images)
    ends = [(part.first_seed, part.first_seed + part.count) for part in parts if part is not None]
    assert len(ends) == 3
    for (_, end), (start, _) in itertools.pairwise(sorted(ends)):
        assert end <= start
    assert max(end for _, end in ends) <= EXAM_SEED


def test_a_run_is_logged_and_says_what_it_has_learned_from(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "MODEL_CARD.md", "bundle.yaml", "dual", "training.json", "vlm",
    ]  # fmt: skip
    assert read_learned(made / "dual") == Learned(seeds=((52000, 52004), (0, 8)))
    (line,) = records(made.parent / "work/student/training")
    assert {"true_labels", "true_patches", "true_distance", "contrastive"} <= line.keys()
    with pytest.raises(DistillationError, match="seed"):
        roadworld_nano.train(made.parent, seed=4)


def test_a_shard_holds_the_scenes_of_its_seeds_and_is_rendered_once(tmp_path: Path) -> None:
    spec = ShardSpec(40, 3, 0.3, GRID)
    (path,) = render_shards([spec], tmp_path, np.flipud, workers=1)
    shard = open_shard(path)
    for index in range(3):
        world = sample_scene(40 + index)
        rendered = render(world, 0.0, *RENDER_SIZE)
        truth = describe(world, rendered)
        assert np.array_equal(shard.images[index], np.flipud(rendered.image))
        assert [LABELS[i] for i in np.flatnonzero(shard.labels[index])] == list(truth.labels)
        told = [c[shard.attributes[index, i]] for i, (_, c) in enumerate(QUESTIONS.values())]
        assert told == list(truth.attributes.values())
        assert shard.truths[index] == truth
    made = (path / "images.npy").stat().st_mtime_ns
    assert list(render_shards([spec], tmp_path, np.flipud, workers=1)) == [path]
    assert (path / "images.npy").stat().st_mtime_ns == made
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_patch_hardly_shows_is_unknown() -> None:
    percent = np.array([[[0], [1], [POSITIVE_PERCENT - 1], [POSITIVE_PERCENT]]], np.uint8)
    labels = np.array([[True, False]])
    attributes = np.zeros((1, len(QUESTIONS)), np.uint8)
    true = true_targets(labels, attributes, percent, np.array([[np.nan, 0, 10, 20]], np.float32))
    assert true.patches[0, :, 0].tolist() == [0, -1, -1, 1]
    assert true.names[0, :2].tolist() == [1, 0]
    phrases = list(ATTRIBUTE_PHRASES)
    first = [QUESTIONS[name][1][0] == choice for name, choice in phrases]
    assert true.names[0, 2:].tolist() == first
    assert true.distance[0, 1:].exp().tolist() == pytest.approx([0.5, 10.5, 20.5])
    assert true.distance[0, 0].isnan()


def test_a_patch_is_embedded_as_if_the_image_were_that_patch(student: Path) -> None:
    dual, _ = opened(student)
    hidden = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = patch_embeddings(dual, hidden)
        for place in range(5):
            alone = dual.vision_model.head(hidden[:, place : place + 1])
            torch.testing.assert_close(together[:, place], nn.functional.normalize(alone, dim=-1))


def test_packed_targets_are_the_answers(with_places: PreTrainedTokenizerFast) -> None:
    # The longest captions leave no room for the last questions.
    shard, rng = invented_shard(24), np.random.default_rng(0)
    dialogues = Dialogues(with_places, balancing_weights([shard]))
    packed = dialogues.pack([dialogues.scene(shard, i, rng) for i in range(24)], PREFIX)
    found = ""
    for row in range(24):
        answers = {presence_question(LABELS[i]): "no" for i in range(len(LABELS))}
        answers |= dict.fromkeys(
            (presence_question(LABELS[i]) for i in np.flatnonzero(shard.labels[row])), "yes"
        )
        for column, (question, choices) in enumerate(QUESTIONS.values()):
            answers[question] = choices[shard.attributes[row, column]]
        answers[CAPTION_PROMPT] = shard.captions[row][0]
        answers |= {
            before + wording + after: instruction.answer(shard.truths[row])
            for instruction in INSTRUCTIONS
            for wording in instruction.wordings
            for before in set(BEFORE)
            for after in set(AFTER)
        }
        asked = [
            dialogue(packed, row, number, with_places)
            for number in range(1, int(packed.segments[row].max()) + 1)
        ]
        places = {question: answer for question, answer in asked if question.startswith("detect ")}
        found += "".join(places.values())
        asked = [pair for pair in asked if pair[0] not in places]
        assert asked[0][0] == CAPTION_PROMPT
        assert len(dict(asked)) == len(asked) >= 4
        assert dict(asked).items() <= answers.items()
    assert "<loc0000><loc0000><loc0003><loc0002> cone" in found
    assert (packed.targets[packed.segments == 0] == -100).all()


def dialogue(
    packed: Packed, row: int, number: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[str, str]:
    """Question and answer of a segment, as the model reads the one and is to write the other."""
    here = packed.segments[row] == number
    assert packed.positions[row, here].tolist() == list(range(PREFIX, PREFIX + int(here.sum())))
    ids, targets = packed.ids[row, here], packed.targets[row, here]
    asked = targets >= 0
    # What is to be written next is what is read next; the last is the stop token.
    assert torch.equal(targets[asked][:-1], ids[1:][asked[:-1]])
    assert targets[-1] == tokenizer.eos_token_id
    prompt = tokenizer.decode(ids[: int(asked.nonzero()[0]) + 1]).strip()
    question = prompt.removeprefix("question: ").removesuffix(" answer:")
    return question, tokenizer.decode(targets[asked][:-1]).strip()


@torch.no_grad()
def test_packed_dialogues_do_not_see_each_other(
    student: Path, with_places: PreTrainedTokenizerFast
) -> None:
    _, vlm = opened(student)
    shard, rng = invented_shard(6), np.random.default_rng(0)
    dialogues = Dialogues(with_places, balancing_weights([shard]))
    # Of different lengths, so that one row is padded.
    scenes = [dialogues.scene(shard, index, rng)[: 3 + index] for index in (1, 5)]
    packed = dialogues.pack(scenes, PREFIX)
    embed, decoder = vlm.model.language_model.embed_tokens, vlm.model.language_model
    prefix = torch.randn(2, PREFIX, 48, generator=torch.Generator().manual_seed(0))
    places = torch.cat((torch.arange(PREFIX).expand(2, -1), packed.positions), dim=1)
    together = decoder(
        inputs_embeds=torch.cat((prefix, embed(packed.ids)), dim=1),
        attention_mask=block_mask(packed.segments, PREFIX),
        position_ids=places,
    ).last_hidden_state[:, PREFIX:]
    spread = together.std()
    for row, scene in enumerate(scenes):
        for number in range(1, len(scene) + 1):
            here = packed.segments[row] == number
            inputs = torch.cat((prefix[row], embed(packed.ids[row, here])))[None]
            alone = decoder(inputs_embeds=inputs).last_hidden_state[0, PREFIX:]
            assert (together[row, here] - alone).abs().max() < 1e-4 * spread
    all_seen = decoder(
        inputs_embeds=torch.cat((prefix, embed(packed.ids)), dim=1), position_ids=places
    ).last_hidden_state[:, PREFIX:]
    assert (all_seen - together)[packed.segments > 1].abs().max() > 0.1 * spread


def test_an_instruction_and_a_place_are_learned(
    made: Path, with_places: PreTrainedTokenizerFast
) -> None:
    """Two scenes that differ in where the cone stands, told apart by what is seen."""
    torch.manual_seed(0)
    _, vlm = opened(made)
    objective = LanguageObjective(vlm, [with_places.bos_token_id])
    shard = invented_shard(2)
    cones = next(kind for kind in INSTRUCTIONS if kind.name == "cones")
    dialogues = Dialogues(with_places, balancing_weights([shard]))
    dialogues.length = 64
    features = 3 * torch.randn(2, 4, 48)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=6e-3)
    true = [cones.answer(truth) for truth in shard.truths]
    assert true == [f"cones on the {side}, about 10 metres." for side in ("right", "left")]
    seen = [
        replace(shard.truths[0].objects[0], box=box) for box in ((9, 60, 20, 40), (400, 9, 90, 99))
    ]

    def losses(swapped: int, wording: str) -> dict[str, Tensor]:
        scenes = [
            [
                dialogues.segment(wording, true[scene ^ swapped], INSTRUCTION),
                dialogues.location(Asked("cone", "cone", (seen[scene ^ swapped],))),
            ]
            for scene in range(2)
        ]
        with torch.compiler.set_stance("force_eager"):
            result: dict[str, Tensor] = objective(features, dialogues.pack(scenes, 5))
        return result

    for step in range(80):
        optimizer.zero_grad()
        parts = losses(0, cones.wordings[step % 2])
        (parts["instructions"] + 5 * parts["locations"]).backward()
        optimizer.step()
    with torch.no_grad():
        told, wrong = losses(0, cones.wordings[0]), losses(1, cones.wordings[0])
    assert float(told["instructions"]) < 0.1
    assert float(wrong["instructions"]) > 0.5
    assert float(told["locations"]) < 0.2 * float(wrong["locations"])


class BrokenOff(Exception):  # noqa: N818 - no error
    """Stands for Ctrl-C or a power cut."""


def task(module: nn.Module, break_at: int | None = None) -> Callable[[int], dict[str, Tensor]]:
    """Losses that depend on the step alone."""

    def losses(step: int) -> dict[str, Tensor]:
        if step == break_at:
            raise BrokenOff
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        y = module(x)
        return {"near": (y - x.sum(dim=1, keepdim=True)).square().mean(), "small": y.abs().mean()}

    return losses


def train(directory: Path, schedule: Schedule, break_at: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    fit(module, task(module, break_at), {"near": 1.0, "small": 0.1}, schedule, directory, "tiny")
    return module


def records(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [{**json.loads(line), "images_per_second": 0.0} for line in lines]


def test_a_resumed_run_is_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    schedule = Schedule(steps=150, batch=8, peak_rate=0.02)
    unbroken = train(tmp_path / "unbroken", schedule)
    with pytest.raises(BrokenOff):
        train(tmp_path / "broken", schedule, break_at=SAVE_EVERY + 13)
    resumed = train(tmp_path / "broken", schedule)
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    log = records(tmp_path / "broken")
    assert log == records(tmp_path / "unbroken")
    assert [record["step"] for record in log] == [20, 40, 60, 80, 100, 120, 140]
    assert log[-1]["near"] < log[0]["near"]
    # A finished run is not run again; another schedule is not taken for the same.
    again = train(tmp_path / "broken", schedule, break_at=0)
    assert torch.equal(again[0].weight, unbroken[0].weight)
    with pytest.raises(VlmPerceptionError, match="another schedule"):
        train(tmp_path / "broken", Schedule(steps=60, batch=8))


def test_a_loss_that_is_no_number_ends_a_run_that_can_go_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, schedule = nn.Linear(4, 1), Schedule(steps=SAVE_EVERY + 20, batch=8)

    def losses(step: int) -> dict[str, Tensor]:
        found = task(module)(step)
        return found if step < SAVE_EVERY + 5 else {**found, "near": found["near"] * torch.nan}

    weights = {"near": 1.0, "small": 0.1}
    with pytest.raises(VlmPerceptionError, match=f"loss near is nan in step {SAVE_EVERY + 6}"):
        fit(module, losses, weights, schedule, tmp_path, "tiny")
    fit(module, task(module), weights, schedule, tmp_path, "tiny")
    assert all(torch.isfinite(each).all() for each in module.parameters())


@PROPERTY
@given(st.integers(2, 5000), st.floats(1e-5, 1.0), st.floats(0.001, 0.9), st.floats(0, 1))
def test_the_rate_warms_up_and_then_falls_to_its_end(
    steps: int, peak: float, share: float, part: float
) -> None:
    schedule = Schedule(steps, batch=1, peak_rate=peak, final_rate=peak * part, warm_up_share=share)
    rates = np.array([schedule.rate(step) for step in range(steps + 1)])
    top = int(np.flatnonzero(np.isclose(rates, peak))[0])
    assert top == max(1, int(steps * share)) - 1
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) <= 1e-9 * peak).all()
    assert rates[-1] == pytest.approx(peak * part)
    assert rates.min() > 0 or part == 0


def test_calibration_finds_the_slope_and_never_turns_a_score_around() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, len(LABELS))).astype(np.float32)
    slope = np.ones(len(LABELS))
    slope[:3] = 2.0, 0.5, -1.0
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-(slope * logits - 1)))
    words = [["{label}"]] * len(LABELS)
    specs = label_specs(LABELS, words, logits, truth.astype(np.float32))
    assert [spec["label"] for spec in specs] == list(LABELS)
    scales = [spec["calibration_scale"] for spec in specs]
    assert scales[:2] == pytest.approx([2.0, 0.5], rel=0.15)
    assert scales[2] == pytest.approx(0.05)
    assert specs[0]["calibration_bias"] == pytest.approx(-1, abs=0.15)


def written_by_transformers(checkpoint: Path, image: NDArray[np.uint8], most: int) -> list[int]:
    """Tokens of an image's caption, with nothing but what lies beside the weights."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    parts = [{"type": "image", "image": image}, {"type": "text", "text": CAPTION_PROMPT}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=most)[0, inputs["input_ids"].shape[1] :].tolist()
    return [each for each in ids if each != processor.tokenizer.eos_token_id]


# Three scenes are too few for every class to occur.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_student_can_be_exported_and_examined(student: Path, tmp_path: Path) -> None:
    bundle = export_bundle(student, tmp_path / "bundle")
    manifest = bundle.manifest
    assert (manifest.image.width, manifest.image.height) == INPUT_SIZE
    assert (manifest.image.columns, manifest.image.rows) == GRID
    assert [spec.label for spec in manifest.vocabulary.labels] == list(LABELS)
    assert any(spec.calibration_scale != 1 for spec in manifest.vocabulary.labels)
    questions = {spec.name: (spec.question, spec.choices) for spec in manifest.questions}
    assert questions == QUESTIONS
    assert manifest.language is not None
    assert manifest.language.caption_prompt == CAPTION_PROMPT
    assert manifest.language.locate is not None
    assert manifest.language.locate.format == "paligemma"
    assert sum(file.bytes for file in manifest.files.values()) <= 20e6
    card = (bundle.path / manifest.model_card).read_text()
    assert all(text in card for text in ("never", "held-out", "Instructions: tell me", "detect"))
    image = np.random.default_rng(0).integers(0, 256, (*INPUT_SIZE[::-1], 3), np.uint8)
    language = LanguageModel(bundle)
    prefix = language.prefill(VisionEncoder(bundle).encode(Frame(image, 1), 0).tokens)
    ours = language.generate(prefix, CAPTION_PROMPT, max_tokens=24).token_ids
    assert written_by_transformers(student / "vlm", image, 24) == list(ours)
    written = tmp_path / "benchmark.json"
    report = evaluate_roadworld(str(bundle.path), scenes=3)
    assert report.show(Console(quiet=True), written) == 0
    figures = report.figures
    assert figures is not None
    assert figures["bundle_digest"] == bundle.digest
    assert 0 <= figures["attributes_balanced_accuracy_mean"] < 0.9
    assert json.loads(written.read_text()).keys() == figures.keys() | {"valid"}
