# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate hallucination: figures as by hand, what counts as named, and a labelled folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.streets import street
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.datasets.object_mentions import ObjectNames
from vlm_perception.evaluation.hallucination.coarse_input import CoarseBundle, coarse
from vlm_perception.evaluation.hallucination.describer import Describer, watch
from vlm_perception.evaluation.hallucination.evaluate import run
from vlm_perception.evaluation.hallucination.figures import SCALES, TEXTS, figures
from vlm_perception.perception.reasoning.question_answering import Description
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

NAMES = ObjectNames(["car", "bus", "person"])


@dataclass(frozen=True)
class Spelled:
    text: str
    stops: bool
    log_probability: float = 0.0


class Planted:
    """Writes a text as it was told to, token by token."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    def write(self, *_: Any, max_tokens: int, **__: Any) -> Iterator[Spelled]:
        for count in range(1, min(len(self._tokens), max_tokens) + 1):
            yield Spelled("".join(self._tokens[:count]), False)
        if max_tokens > len(self._tokens):
            yield Spelled("".join(self._tokens), True)


def written(*tokens: str, most: int = 40, untagged: tuple[str, ...] = ()) -> dict[str, object]:
    language: Any = Planted(*tokens)
    description = Description(language, None, "", max_tokens=most, untagged=untagged)
    seen = watch(description, NAMES)
    return {"finished": seen.finished, **{text: set(getattr(seen, text)) for text in TEXTS}}


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        # A half word is no object at any time, a whole one is when the next begins.
        (("a", " car", "pet and", " a", " bus"), {}, (True, {"bus"}, set(), set())),
        (("a", " car", " and", " a", " bus"), {}, (True, {"car", "bus"}, {"car"}, {"car"})),
        # An object was shown for a moment, or would have been left over, and is denied then.
        (("cars", " are", " not", " visible"), {}, (True, set(), {"car"}, {"car"})),
        (("no", " cars", " or", " a", " bus"), {}, (True, set(), set(), set())),
        # What is not tagged is held back while the text may go on, but not by a deadline.
        (
            ("a", " car", " and", " a", " bus"),
            {"untagged": ("car",)},
            (True, {"car", "bus"}, set(), {"car"}),
        ),
        # The limit of tokens leaves a text as it was published.
        (
            ("a", " car", " and", " a", " bus"),
            {"most": 5},
            (False, {"car"}, {"car"}, {"car"}),
        ),
        ((), {}, (True, set(), set(), set())),
    ],
)
def test_what_was_named_at_any_moment(
    tokens: tuple[str, ...], options: dict[str, Any], expected: tuple[object, ...]
) -> None:
    assert tuple(written(*tokens, **options).values()) == expected


def record(image: str, objects: str, named: str, coarser: str = "") -> dict[str, Any]:
    """Labels are letters."""
    texts = {text: list(named) for text in TEXTS}
    return {
        "image": image,
        "objects": list(objects),
        "texts": {**dict.fromkeys(SCALES, texts), "1/8": {text: list(coarser) for text in TEXTS}},
    }


def test_figures_are_as_by_hand() -> None:
    found = figures([record("1", "abc", "abx"), record("2", "a", ""), record("3", "bc", "bxy")])
    assert found["chair_s"]["1"] == pytest.approx(2 / 3)
    assert found["chair_i"]["1"] == pytest.approx(3 / 6)
    assert found["recall"]["1"] == pytest.approx(3 / 6)
    assert found["named"]["1"] == pytest.approx(6 / 3)
    for part in (found, found["partial"], found["cut"]):
        assert part["chair_i"]["1/4"] == pytest.approx(3 / 6)
        assert np.isnan(part["chair_i"]["1/8"]), "nothing is named in the coarsest images"
    assert found["chair_s"]["1/8"] == found["recall"]["1/8"] == 0.0
    for scale in ("1", "1/2", "1/4"):
        assert found["chair_s_low"][scale] < found["chair_s"][scale] < found["chair_s_high"][scale]
    assert found["begins_at"] is None


def test_invention_begins_where_more_of_what_is_named_is_not_there() -> None:
    clear = [record(str(at), "ab", "abx"[: 2 + (at % 4 == 0)], "axy") for at in range(60)]
    assert figures(clear)["begins_at"] == "1/8"
    same = [record(str(at), "ab", "abx"[: 2 + at % 2], "abx"[: 3 - at % 2]) for at in range(60)]
    assert figures(same)["begins_at"] is None
    few = [*clear[:18], *(record(f"silent {at}", "ab", "", "") for at in range(60))]
    assert figures(few)["begins_at"] is None, "18 captions that name anything prove nothing"
    for count in (1, 3, 60):
        rare = [record(str(at), "ab", "ab", "abx" if at < 3 else "ab") for at in range(count)]
        assert figures(rare)["begins_at"] is None, "that 3 invent more may be chance"


def test_the_towers_see_less_of_the_same_image() -> None:
    bundle = ModelBundle.load("roadworld-nano")
    coarser = CoarseBundle.of(bundle)
    plain, made = (VisionEncoder(each, temporal=False) for each in (bundle, coarser))
    size = bundle.manifest.image
    image = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)

    def pooled(encoder: VisionEncoder, image: np.ndarray) -> np.ndarray:
        return encoder.encode(Frame(image, 0), 0).pooled

    np.testing.assert_array_equal(pooled(made, image), pooled(plain, image))
    coarser.coarseness.divisor = 4
    np.testing.assert_array_equal(pooled(made, image), pooled(plain, coarse(image, 4)))
    steps = np.array([[0, 0, 200, 200]], np.uint8).repeat(4, axis=0)[..., np.newaxis].repeat(3, 2)
    assert (np.unique(coarse(steps, 2)[0, :, 0]) == [0, 50, 150, 200]).all()
    assert (coarse(steps, 4) == 100).all()
    assert (coarse(steps, 8) == 100).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for seed in range(2):
        image = street(seed).rendered.image
        cv2.imwrite(str(data / f"{seed}.png"), image[..., ::-1])
        lines.append({"image": f"{seed}.png", "objects": ["automobile", "coach"]})
    (data / "objects.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (data / "synonyms.yaml").write_text("synonyms: {car: [automobile], bus: [coach]}\n")
    return data


def test_a_run_that_was_cut_off_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, images = Describer.describe, []

    def until_killed(self: Describer, image: np.ndarray) -> dict[str, Any]:
        if len(images) == 1:
            images.append(image)
            raise KeyboardInterrupt
        images.append(image)
        return describe(self, image)

    monkeypatch.setattr(Describer, "describe", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run("roadworld-nano", folder, 0, tmp_path / "out")
    report = run("roadworld-nano", folder, 0, tmp_path / "out")
    assert len(images) == 3
    assert report.figures is not None
    found: Any = report.figures
    assert found["images"] == 2
    assert found["bundle_digest"] == ModelBundle.load("roadworld-nano").digest
    # Beside the folder's: what the bundle may invent. Weather is no object.
    looked_for = found["looked_for"]
    assert {"pedestrian", "cone"} < set(looked_for["in_no_image"])
    assert looked_for["labels"] == len(looked_for["in_no_image"]) + 2
    assert not {"rain", "car", "bus", "automobile"} & set(looked_for["in_no_image"])
    told = " ".join(map(str, report.parts))
    assert f"{looked_for['labels']} labels are looked for" in told
    assert "begins cannot be told" in told
    assert found["sets"][0].keys() == {"name", "version", "split"}
    assert not (tmp_path / "out" / "finished.jsonl").exists()
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").open()]
    assert [each["image"] for each in records] == ["0.png", "1.png"]
    assert all(each["objects"] == ["bus", "car"] for each in records)
    assert str(figures(records)) == str(found["hallucination"])
    named = [set(each["texts"]["1"]["final"]) for each in records]
    assert found["hallucination"]["named"]["1"] == sum(map(len, named)) / 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("objects.jsonl", "", "names no image"),
        ("objects.jsonl", '{"image": "0.png", "objects": []}', "names no object"),
        ("synonyms.yaml", "synonyms: [car]", "write it as"),
        ("synonyms.yaml", "synonyms: {car: [van], bus: [van]}", "'van' stands for"),
        ("1.png", "no image", "--skip-broken"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    done = CliRunner().invoke(app, ["evaluate", "hallucination", "--data", str(folder)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
