# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Self-TPT's two stages: soft prompts are learned, and adapted to labels by their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.checkpoints import write_spec
from support.curation import saved, tar_of
from transformers import AutoModel
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ADAPT_GRAPH, ModelBundle
from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.site_vocabulary import read_site_vocabulary
from vlm_perception.cli import app
from vlm_perception.datasets.final_set import STAGE, Contents, Shard
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.manifest_fields import text_spec_of
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.modeling.self_tpt import Head, contrast, prompted
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.learned_prompts import (
    ARRAYS,
    SPEC,
    LearnedPrompts,
    PromptsError,
    read_prompts,
)
from vlm_perception.perception.vision.prompt_adaptation import AdaptationSettings, PromptAdapter
from vlm_perception.perception.vision.prompt_sequences import prompt_sequences
from vlm_perception.training import loop
from vlm_perception.training.adaptation.learn import learn
from vlm_perception.training.adaptation.settings import LearningSettings
from vlm_perception.training.adaptation.sources import open_source

CLASSES = ("red car", "truck", "yellow bus", "pedestrian")
NEW = ["a bus", "green car", "blue truck", "cyclist", "a wet street"]
SETTINGS = LearningSettings(init="a red car", steps=40, batch=8)


@pytest.fixture(scope="module")
def photos_by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name in CLASSES:
        place = folder / name.replace(" ", "_")
        place.mkdir()
        colours = rng.integers(0, 256, (3, 4, 3))
        for index in range(6):
            image = np.clip(colours + rng.normal(0, 30, (3, 4, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(place / f"{index}.png"), cv2.resize(image, (48, 48)))
    return folder


@pytest.fixture(scope="module")
def learned(
    clip_checkpoint: Path, photos_by_class: Path, tmp_path_factory: pytest.TempPathFactory
) -> LearnedPrompts:
    out = tmp_path_factory.mktemp("learned") / "prompts"
    return learn(str(clip_checkpoint / "dual"), str(photos_by_class), out, SETTINGS)


@pytest.fixture(scope="module")
def adaptable(clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("adaptable")
    (folder / "source").mkdir()
    (folder / "source/dual").symlink_to(clip_checkpoint / "dual")
    (folder / "source/MODEL_CARD.md").write_text("# Random weights, for tests\n")
    write_spec(folder / "source", geometry=None)
    return export_bundle(folder / "source", folder / "bundle", ExportOptions(adapt=True))


def matching(folder: Path) -> list[float]:
    """One minus the cosine of the gradients, in each record of the log."""
    lines = (folder / "work/training/log.jsonl").read_text().splitlines()
    return [json.loads(line)["matching"] for line in lines]


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_prompts_that_are_words_are_embedded_as_the_words(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint") / "dual"
    reader, words = DualReader(folder), "there is a"
    spec = text_spec_of(reader.family, reader.model, reader.tokenizer, "tokenizer.json")
    backend = reader.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json")
    ids = tokenizer.encode(words)
    laid = prompt_sequences(tokenizer, spec, CLASSES, len(ids), whole=family == "siglip")
    tower = reader.family.text(reader.model, spec.length).eval()
    expected = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        context = tower.token_embedding(torch.tensor(ids))
        found = prompted(tower, context, *map(torch.from_numpy, vars(laid).values()))
        written = reader.ids([f"{words} {name}" for name in CLASSES])
        texts = expected.get_text_features(written).pooler_output
    end = torch.nn.functional.normalize(texts, dim=-1)
    torch.testing.assert_close(found[2], end, atol=1e-5, rtol=0)
    assert (found[0] - found[2]).abs().max() > 1e-3 < (found[1] - found[2]).abs().max()


def test_a_run_that_was_interrupted_gives_the_same_bytes(
    clip_checkpoint: Path,
    photos_by_class: Path,
    learned: LearnedPrompts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [str(clip_checkpoint / "dual"), str(photos_by_class), tmp_path / "prompts"]
    monkeypatch.setattr(loop, "SAVE_EVERY", 8)
    step, save = loop._step, []

    def breaks(*args: Any) -> Any:
        save.append(args[4])
        if args[4] == 21:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        learn(*words, SETTINGS)
    with pytest.raises(PromptsError, match="learning did not finish"):
        read_prompts(tmp_path / "prompts")
    monkeypatch.setattr(loop, "_step", step)
    learn(*words, SETTINGS)
    for name in (SPEC, ARRAYS):
        assert (tmp_path / "prompts" / name).read_bytes() == (learned.folder / name).read_bytes()


def test_matched_gradients_agree_more(
    clip_checkpoint: Path, photos_by_class: Path, learned: LearnedPrompts, tmp_path: Path
) -> None:
    words = [str(clip_checkpoint / "dual"), str(photos_by_class), tmp_path / "prompts"]
    learn(*words, LearningSettings(**{**vars(SETTINGS), "matching": 1e-9}))
    assert matching(learned.folder)[-1] < matching(tmp_path / "prompts")[-1] - 0.02


def test_the_graph_gives_what_autograd_does(adaptable: ModelBundle, clip_checkpoint: Path) -> None:
    engine = adaptable.engine(ADAPT_GRAPH)
    rng = np.random.default_rng(1)

    def drawn(*shape: int) -> Any:
        return 0.1 * rng.normal(size=shape).astype(np.float32)

    reader = DualReader(clip_checkpoint / "dual")
    half = lambda weight: weight.copy_(weight.half().float())  # noqa: E731
    with torch.no_grad():
        [half(weight) for weight in reader.model.parameters()]
    tower = reader.family.text(reader.model, 24).eval()
    classes, length, prompts = 6, 11, 3
    ids = rng.integers(1, 300, (3, classes, length))
    ids[..., -1] = reader.model.config.text_config.eos_token_id
    placement = np.zeros((3, classes, length, prompts), np.float32)
    placement[:, :, np.arange(2, 5), np.arange(prompts)] = 1.0
    inputs = {
        "context": drawn(prompts, 48),
        "weight_in": drawn(9, 32),
        "bias_in": drawn(9),
        "weight_out": drawn(4, 9),
        "bias_out": drawn(4),
        "temperature": np.array(0.2, np.float32),
        "input_ids": ids,
        "placement": placement,
        "written": drawn(classes, 32),
    }
    found = engine.run(inputs)
    context, *weights, temperature, _, _, written = map(torch.from_numpy, inputs.values())
    context.requires_grad_()
    features = prompted(tower, context, torch.from_numpy(ids), torch.from_numpy(placement))
    loss = contrast(features, written, Head(*weights), temperature)
    loss.backward()
    np.testing.assert_allclose(found["loss"], loss.item(), rtol=1e-6)
    np.testing.assert_allclose(found["features"], features.detach(), atol=2e-6)
    np.testing.assert_allclose(found["gradient"], context.grad, atol=2e-6)


@pytest.mark.parametrize("at_once", [64, 4])
def test_names_alone_move_the_prompts_and_set_the_labels_apart(
    adaptable: ModelBundle, learned: LearnedPrompts, at_once: int
) -> None:
    adapter = PromptAdapter(adaptable, learned)
    found = adapter.adapt(NEW, AdaptationSettings(classes=at_once))
    still = adapter.adapt(NEW, AdaptationSettings(steps=0, classes=at_once))
    assert found.loss_after < found.loss_before - 0.05 and still.loss_after == found.loss_before
    assert np.abs(found.context - learned.context).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1.0, atol=1e-6)
    assert np.abs(found.embeddings - still.embeddings).max() > 1e-3


def test_the_commands_make_a_vocabulary(
    adaptable: ModelBundle, learned: LearnedPrompts, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(NEW))
    out, prompts = tmp_path / "site.vocabulary", tmp_path / "prompts"
    shutil.copytree(learned.folder, prompts)

    def classes(bundle: ModelBundle, folder: Path, *options: str) -> tuple[int, str]:
        words = ["adapt", "classes", "--bundle", str(bundle.path), "--prompts", str(folder)]
        words += ["--labels", str(tmp_path / "labels.txt"), "--out", str(out), *options]
        told = CliRunner().invoke(app, words)
        return told.exit_code, " ".join(told.output.split())

    code, told = classes(adaptable, prompts)
    assert code == 0 and "the contrast of the labels went from" in told
    site = read_site_vocabulary(out, adaptable)
    assert site.made.prompts is not None and site.made.prompts.digest == learned.digest
    expected = PromptAdapter(adaptable, learned).adapt(NEW, AdaptationSettings())
    np.testing.assert_allclose(site.rows, expected.embeddings, atol=1e-5)
    before = out.read_bytes()
    (prompts / ARRAYS).write_bytes((prompts / ARRAYS).read_bytes()[:-40])
    assert classes(adaptable, prompts)[0] == 2
    spec = json.loads((learned.folder / SPEC).read_text())
    spec["weights"] = {"model.safetensors": "0" * 64}
    shutil.copytree(learned.folder, prompts, dirs_exist_ok=True)
    (prompts / SPEC).write_text(json.dumps(spec))
    code, told = classes(adaptable, prompts)
    assert code == 2 and "learned for another checkpoint" in told
    code, told = classes(adaptable, tmp_path / "nowhere")
    assert code == 2 and "no folder of learned prompts" in told
    (tmp_path / "labels.txt").write_text("car")
    code, told = classes(adaptable, learned.folder)
    assert code == 2 and "nothing to differ from" in told
    assert out.read_bytes() == before


def emptied(folder: Path) -> str:
    (folder / "tram").mkdir()
    return "has no image of tram"


def broken(folder: Path) -> str:
    (folder / "truck/0.png").write_bytes(b"\x89PNG\r\n")
    return "0.png cannot be used"


def alike(folder: Path) -> str:
    shutil.copytree(folder / "truck", folder / "Truck")
    return "the same tokens"


def one(folder: Path) -> str:
    for name in CLASSES[1:]:
        shutil.rmtree(folder / name.replace(" ", "_"))
    return "two classes at least"


@pytest.mark.parametrize("spoil", [emptied, broken, alike, one, shutil.rmtree])
def test_images_that_cannot_be_learned_from_are_refused(
    clip_checkpoint: Path, photos_by_class: Path, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    folder = shutil.copytree(photos_by_class, tmp_path / "photos")
    reason = spoil(folder) or "does not exist"
    words = ["adapt", "learn", "--checkpoint", str(clip_checkpoint / "dual"), "--data", str(folder)]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--steps", "2"])
    assert told.exit_code == 2 and reason in " ".join(told.output.split()), told.output


def test_classes_of_a_curated_set_are_the_objects_that_its_sources_name(tmp_path: Path) -> None:
    folder, members = tmp_path / STAGE, []
    for number, objects in enumerate([["Car", "bus"], [], ["car"]]):
        image = saved(np.full((90, 160, 3), 20 * number, np.uint8), "PNG")
        record = {"captions": [], **({"objects": objects} if objects else {})}
        members += [(f"{number}.png", image), (f"{number}.json", json.dumps(record).encode())]
    (folder / "train").mkdir(parents=True)
    file = folder / "train/000000.tar"
    tar_of(file, members)
    shard = Shard(
        name=f"train/{file.name}",
        sha256=file_sha256(file),
        bytes=file.stat().st_size,
        images=3,
        captions=0,
    )
    (folder / "set.json").write_bytes(Contents.of({"train": [shard]}).as_json())
    source = open_source(str(tmp_path), scenes=1)
    read = [source.read(index) for index in range(source.images)]
    assert [classes for _, classes in read] == [("car", "bus"), ("car",)]
    assert [int(image.max()) for image, _ in read] == [0, 40]


def test_scenes_of_the_road_world_have_its_labels() -> None:
    source = open_source("roadworld", scenes=3)
    image, classes = source.read(2)
    assert source.images == 3 and image.shape == (144, 256, 3) and set(classes) <= set(LABELS)


def test_words_of_too_few_tokens_are_refused_before_images_are_read(
    clip_checkpoint: Path, photos_by_class: Path, tmp_path: Path
) -> None:
    words = ["adapt", "learn", "--checkpoint", str(clip_checkpoint / "dual"), "--init", "a"]
    words += ["--data", str(photos_by_class), "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2 and "'a' is 1 tokens" in " ".join(told.output.split())
    assert not (tmp_path / "out/work/features").exists()


def test_a_folder_of_another_run_is_refused(
    clip_checkpoint: Path, photos_by_class: Path, learned: LearnedPrompts
) -> None:
    words = ["adapt", "learn", "--checkpoint", str(clip_checkpoint / "dual"), "--steps", "3"]
    words += ["--data", str(photos_by_class), "--out", str(learned.folder)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2 and "steps was 40 and is 3 now" in " ".join(told.output.split())
