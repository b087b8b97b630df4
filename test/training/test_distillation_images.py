# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What distillation learns from: views of the road world, of folders and of curated sets."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.curation import picture, saved, tar_of

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.final_set import STAGE, Contents, Shard
from vlm_perception.datasets.roadworld.appearance import Appearance
from vlm_perception.datasets.roadworld.files.clip import WORLD_VERSION
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import look
from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, QUESTIONS, describe, seen_in
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.training.distillation.examples import View, draw_views
from vlm_perception.training.distillation.images import road_world
from vlm_perception.training.distillation.images.mirrored_texts import mirrored
from vlm_perception.training.distillation.images.open import open_images
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    FinalSetImages,
    FolderImages,
    RoadWorldImages,
    Views,
    read_recipe,
)
from vlm_perception.training.distillation.student.batches import Batches, order

SIZE, GRID = (320, 180), (16, 9)
SCENES = RoadWorldImages(kind="road-world", first_seed=70, count=3)
PART = View(left=0.25, top=0.125, scale=0.75)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rendered scenes, made without other processes."""
    folder = tmp_path_factory.mktemp("scenes")
    road_world._render(70, 3, 0.3, folder=folder)
    return folder


def scenes(folder: Path, **changes: Any) -> Any:
    spec = SCENES.model_copy(update={"cache": str(folder), **changes})
    return open_images(spec, folder, ["en"], folder)


@pytest.mark.parametrize("view", [View(), PART, replace(PART, mirrored=True)])
def test_truth_of_a_view_is_that_of_its_pixels(rendered: Path, view: View) -> None:
    images = scenes(rendered)
    for index in range(3):
        world = sample_scene(70 + index, 0.3)
        drawn = render(world, 0.0, *road_world.FRAME)
        ids = drawn.ids
        if view.scale < 1:
            ids = ids[45:315, 160:640]
        ids = ids[:, ::-1] if view.mirrored else ids
        truth = images.example(index, view, SIZE, GRID).truth

        shares = [np.mean(ids == number + 1) for number in range(len(drawn.objects))]
        present = {
            thing.label
            for thing, share in zip(drawn.objects, shares, strict=True)
            if share >= PRESENT_SHARE
        }
        scene = describe(world, drawn)
        present |= {label for label in scene.labels if label not in OBJECT_LABELS}
        assert {
            each for each, is_seen in zip(LABELS, truth.labels, strict=True) if is_seen
        } == present
        for (name, (_, choices)), chosen in zip(QUESTIONS.items(), truth.attributes, strict=True):
            if name in ("time_of_day", "weather", "road"):
                assert choices[chosen] == scene.attributes[name]
        works = QUESTIONS["construction"][1][
            truth.attributes[list(QUESTIONS).index("construction")]
        ]
        assert (works == "yes") == bool(present & {"cone", "barrier"})

        height, width = ids.shape
        patches = ids.reshape(9, height // 9, 16, width // 16).swapaxes(1, 2).reshape(9, 16, -1)
        for number, label in enumerate(OBJECT_LABELS):
            these = [i + 1 for i, thing in enumerate(drawn.objects) if thing.label == label]
            counted = 100 * np.isin(patches, these).mean(axis=-1)
            # Each patch is counted at 100 of its 1200 pixels or more.
            assert np.abs(truth.coverage[..., number] - counted).mean() < 1
            assert np.abs(truth.coverage[..., number] - counted).max() < 15
        seen = np.isin(patches, range(1, len(drawn.objects) + 1)).mean(axis=-1)
        assert np.isnan(truth.distance[seen == 0]).all()
        assert np.isfinite(truth.distance[seen > 0.1]).all()


def test_mirrored_views_are_mirror_images(rendered: Path) -> None:
    images, other = scenes(rendered), replace(PART, mirrored=True)
    for index in range(3):
        there, back = (images.example(index, view, SIZE, GRID) for view in (PART, other))
        np.testing.assert_array_equal(
            images.picture(index, other)[:, ::-1], images.picture(index, PART)
        )
        np.testing.assert_array_equal(there.truth.labels, back.truth.labels)
        np.testing.assert_array_equal(there.truth.attributes, back.truth.attributes)
        assert np.abs(there.image[:, ::-1].astype(int) - back.image).max() <= 1
        assert there.captions == back.captions
        truth, ids = road_world._seen(images._scene(index), View(mirrored=True))
        assert seen_in(truth, ids) == truth


def test_scenes_are_rendered_once_and_damage_is_told(rendered: Path, tmp_path: Path) -> None:
    assert scenes(rendered).digest == scenes(rendered).digest
    asked = {"kind": "road-world", "first_seed": 70, "count": 3, "small": 0.3}
    plain = f"{asked} {road_world.FRAME} {road_world.QUALITY} {WORLD_VERSION}"
    # Without an appearance, outputs that runs have stored stay valid.
    assert scenes(rendered).digest == hashlib.sha256(plain.encode()).hexdigest()
    (kept,) = rendered.iterdir()
    broken = tmp_path / kept.name
    broken.mkdir()
    for file in kept.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "scenes.bin").write_bytes((kept / "scenes.bin").read_bytes()[:-1])
    with pytest.raises(DistillationError, match="remove that folder"):
        scenes(tmp_path)


def test_a_random_appearance_gives_other_images_with_their_own_truth(tmp_path: Path) -> None:
    spec = SCENES.model_copy(update={"count": 1, "cache": str(tmp_path)})
    for strength in (0.0, 1.0):
        road_world._render(70, 1, 0.3, folder=tmp_path, appearance=Appearance(strength))
    plain, random = (
        open_images(spec.model_copy(update={"appearance": each}), tmp_path, ["en"], tmp_path)
        for each in (0.0, 1.0)
    )
    assert len(list(tmp_path.iterdir())) == 2
    assert random.digest != plain.digest
    street = look(sample_scene(70, 0.3), road_world.FRAME, appearance=Appearance(1.0))
    example = random.example(0, View(), SIZE, GRID)
    assert {each for each, seen in zip(LABELS, example.truth.labels, strict=True) if seen} == set(
        street.truth.labels
    )
    assert (example.image != plain.example(0, View(), SIZE, GRID).image).any()


def test_easy_scenes_come_first_and_each_image_as_often_as_any(tmp_path: Path) -> None:
    for part in ((70, 1, road_world.EASY), (71, 2, 0.3)):
        road_world._render(*part, folder=tmp_path)
    images = scenes(tmp_path, easy=1)
    for index, small in enumerate((road_world.EASY, 0.3, 0.3)):
        street = look(sample_scene(70 + index, small), road_world.FRAME)
        labels = images.example(index, View(), SIZE, GRID).truth.labels
        assert [each for each, is_seen in zip(LABELS, labels, strict=True) if is_seen] == list(
            street.truth.labels
        )
    plan = [[place.image for place in places] for places in order(100, 1, 8, 50, 1, 30)]
    assert len(plan) == 50
    assert np.max(plan[:5]) < 30
    often = np.bincount(np.ravel(plan[5:]), minlength=100)
    assert often.max() - often.min() <= 1


def test_a_resumed_reader_goes_on_exactly(rendered: Path) -> None:
    wanted = Views(count=2, least_scale=0.5, mirror=True)

    def read(steps: range) -> list[Any]:
        plan = list(order(3, 2, 2, 5, seed=4))
        images = scenes(rendered)
        batches = Batches(images, lambda i: draw_views(4, i, wanted), SIZE, GRID, plan, seed=4)
        read = [batches[step] for step in steps]
        batches.close()
        return read

    for whole, resumed in zip(read(range(5))[2:], read(range(2, 5)), strict=True):
        assert whole.places == resumed.places and whole.captions == resumed.captions
        assert whole.pixels.equal(resumed.pixels)


def test_views_are_drawn_within_the_image() -> None:
    wanted = Views(count=4, least_scale=0.5, mirror=True)
    drawn = [draw_views(3, index, wanted) for index in range(200)]
    assert drawn == [draw_views(3, index, wanted) for index in range(200)]
    assert all(views[0].scale == 1 and len(set(views)) == 4 for views in drawn)
    for view in (view for views in drawn for view in views):
        assert 0.5 <= view.scale**2 <= 1
        assert view.left >= 0 and view.left + view.scale <= 1 + 1e-9
        assert view.top >= 0 and view.top + view.scale <= 1 + 1e-9
    assert 0.4 < np.mean([view.mirrored for views in drawn for view in views]) < 0.6
    (alone,) = draw_views(3, 0, Views(gain=0.0))
    assert alone == View()


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a car on the left and a bus on the right", "a car on the right and a bus on the left"),
        ("the Left-hand lane; LEFT TURN only", "the Right-hand lane; RIGHT TURN only"),
        (
            "the rightmost sign, all right, leftover snow",
            "the leftmost sign, all right, leftover snow",
        ),
        (
            "a car right behind the bus stops right now",
            "a car right behind the bus stops right now",
        ),
        ("a bus left the stop", "a bus left the stop"),
        ("to the left of a right-of-way sign", "to the right of a right-of-way sign"),
        ("turn right at the light", "turn left at the light"),
        ("in the bottom left corner (right)", "in the bottom right corner (left)"),
        (
            "from left to right; the car's left headlight",
            "from right to left; the car's right headlight",
        ),
        ("an upright bright copyright sign", "an upright bright copyright sign"),
        ("two lanes left", None),
        ("the right one", None),
        ("what is left of the wall", None),
        ("a dog left alone", None),
        ("a clockwise roundabout", None),
    ],
)
def test_sides_are_swapped_where_they_are_sides(text: str, swapped: str | None) -> None:
    assert mirrored(text) == swapped


WORDS = (
    *("left", "right", "Left", "RIGHT", "left-hand", "rightmost", "leftover", "right-angled"),
    *("the", "a", "on", "to", "turn", "of", "and", "is", "has", "all", "now", "behind", "lane"),
    *("car", "what", "top", "in", "front", "driver's", "over", "it's", ",", "/", ":", "(", ")"),
)


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_text_mirrored_twice_is_itself(text: str) -> None:
    once = mirrored(text)
    assert once is None or mirrored(once) == text


def captioned(folder: Path, captions: dict[str, Any], **lines: Any) -> FolderImages:
    """A folder of two images, one upright by its orientation, in a subfolder."""
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(saved(picture(1, 320, 240)))
    turned = saved(picture(2, 320, 240), exif=b"Exif\x00\x00" + _orientation(6))
    (folder / "more/b.jpg").write_bytes(turned)
    with (folder / "captions.jsonl").open("w") as stream:
        for name, texts in captions.items():
            stream.write(json.dumps({"image": name, "captions": texts, **lines}) + "\n")
    return FolderImages(kind="folder", path=str(folder))


def _orientation(value: int) -> bytes:
    return (
        b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00"
        + bytes([value])
        + b"\0" * 6
    )


def test_folder_gives_views_and_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = {"a.jpg": ["a bus on the left", "the right one"], "./more/b.jpg": ["rain"]}
    spec = captioned(tmp_path / "in", texts, language="en-GB")
    images = open_images(spec, tmp_path, ["en"], tmp_path)
    assert [images.name(i) for i in range(len(images))] == ["a.jpg", "more/b.jpg"]
    assert images.picture(1, View()).shape == (320, 240, 3)
    whole = images.example(0, View(), SIZE, GRID)
    assert whole.captions == ("a bus on the left", "the right one") and whole.truth is None
    assert images.example(0, View(mirrored=True), SIZE, GRID).captions == ("a bus on the right",)
    half = images.picture(0, PART)
    np.testing.assert_array_equal(half, images.picture(0, View())[30:210, 80:320])
    np.testing.assert_array_equal(half[:, ::-1], images.picture(0, replace(PART, mirrored=True)))

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            images.example(1, View(), SIZE, GRID)
    assert len(caplog.records) == 1 and "320x180" in caplog.text

    again = open_images(spec, tmp_path, ["en"], tmp_path)
    assert again.digest == images.digest
    assert open_images(spec, tmp_path, ["de"], tmp_path).digest != images.digest
    assert not open_images(spec, tmp_path, ["de"], tmp_path).captioned
    assert "en-GB" in caplog.text and "de" in caplog.text


def test_captions_without_a_language_are_not_mirrored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = captioned(tmp_path / "in", {"a.jpg": ["ein Bus, links"]})
    images = open_images(spec, tmp_path, ["en", "und"], tmp_path)
    with caplog.at_level(logging.WARNING):
        assert images.example(0, View(mirrored=True), (32, 18), GRID).captions == ()
    assert '"language": "en"' in caplog.text
    assert images.example(0, View(), (32, 18), GRID).captions == ("ein Bus, links",)


def test_split_is_read_in_any_order(tmp_path: Path) -> None:
    folder, shards = tmp_path / STAGE, []
    for number in range(10):
        record = {"captions": [{"text": f"cone {number} on the left", "language": "en"}]}
        file = folder / f"train/{number:06d}.tar"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((90, 160, 3), 20 * number, np.uint8)
        tar_of(file, [("k.png", saved(pixels, "PNG")), ("k.json", json.dumps(record).encode())])
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        shards.append(
            Shard(
                name=f"train/{file.name}", sha256=sha256, bytes=len(content), images=1, captions=1
            )
        )
    (folder / "set.json").write_bytes(Contents.of({"train": shards}).as_json())
    spec = FinalSetImages(kind="final-set", path=str(tmp_path))
    images = open_images(spec, tmp_path, ["en"], tmp_path)
    # With where all files are known, a shard is not gone through again.
    for index in (7, 0, 9, 3):
        example = images.example(index, View(mirrored=True), (160, 90), GRID)
        assert example.image.max() == example.image.min() == 20 * index
        assert example.captions == (f"cone {index} on the right",)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(VlmPerceptionError) as error:
            open_images(FolderImages(kind="folder", path=str(path)), tmp_path, ["en"], tmp_path)
        return str(error.value)

    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("x")
    assert "has no images" in refused(empty)
    assert "is a file" in refused(file)
    assert "is not there" in refused(tmp_path / "nowhere")
    captioned(tmp_path / "in", {"c.jpg": ["rain"]})
    assert "c.jpg" in refused(tmp_path / "in")
    (tmp_path / "in/captions.jsonl").unlink()
    (tmp_path / "in/more/b.jpg").write_bytes(saved(picture(2))[:900])
    assert "1 of 2 images" in (told := refused(tmp_path / "in")) and "b.jpg" in told


def test_mirroring_of_unknown_languages_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    content = {
        "name": "mirrored",
        "images": {"kind": "folder", "path": "in"},
        "languages": ["en-GB", "und", "de"],
        "views": {"mirror": True},
    }
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(DistillationError, match="leave de out"):
        read_recipe(file)
    file.write_text(yaml.safe_dump({**content, "languages": ["en-GB", "und"]}))
    assert read_recipe(file).views.mirror
