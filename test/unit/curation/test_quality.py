# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions are taken by how well they fit their image; a set whose captions do not is stopped."""

from __future__ import annotations

import json
import math
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.curation import curate, lines, write_recipe
from support.edited_bundle import edited
from support.scripted_judge import MODEL, ScriptedJudge
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.curation import encoders
from vlm_perception.curation.calibration.calibrate_pairs import pair_thresholds
from vlm_perception.curation.calibration.pair_thresholds import (
    joint_limits,
    rejected,
    shuffled_partners,
    upper_limit,
)
from vlm_perception.curation.models import changed_models, model_digests
from vlm_perception.curation.quality.checked import check_tasks, do_check
from vlm_perception.curation.quality.pair_scores import pair_scores
from vlm_perception.curation.recipe import CurationError, Quality, read_recipe
from vlm_perception.curation.thresholds.pair_limits import in_scale, limits
from vlm_perception.datasets.roadworld.streets import Streets

CHECKED = "03_quality_checked"
SEED, COUNT = 7_000_002, 20
ENCODER = {"kind": "bundle", "path": "roadworld-nano"}
BOUNDS = {"encoder": ENCODER, "prefix": "", "scale": "cosine", "accept": 0.12, "reject": 0.1}


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """A folder of street scenes, and a true caption of each."""
    folder = tmp_path_factory.mktemp("streets")
    captions = []
    for place, street in enumerate(Streets(range(SEED, SEED + COUNT), (320, 180))):
        cv2.imwrite(str(folder / f"{place:02d}.jpg"), street.image[..., ::-1])
        captions.append(street.captions[0].text)
    return folder, captions


def check(folder, *words, code=0):
    return curate("run", folder, "--to", CHECKED, *words, code=code)


def prepare(tmp_path, streets, texts, quality, **more):
    """A set of the streets with other captions; a caption is a text or (text, language)."""
    source = tmp_path / "captioned"
    if not source.exists():
        shutil.copytree(streets, source)
    rows = []
    for place, each in enumerate(texts):
        for caption in each if isinstance(each, list) else [each]:
            text, language = caption if isinstance(caption, tuple) else (caption, "en")
            name = f"{place:02d}.jpg"
            rows.append({"image": name, "captions": [text], "language": language})
    (source / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return write_recipe(
        tmp_path / "set",
        sources=[{"kind": "captions", "path": "../captioned"}],
        quality=quality,
        **{"filter": {"phash_distance": None, "min_side": 100}, **more},
    )


def test_each_pair_is_judged_by_the_scale_of_the_recipe(tmp_path, streets):
    images, captions = streets
    mixed = [*captions[:12], *captions[13:], captions[12]]
    mixed[0] = [captions[0], captions[1], (captions[0], "de"), ("ein Haus", "de-CH")]
    mixed[1] = (captions[1], "de")
    mixed[2] += " and a car" * 40
    translations = {"encoder": ENCODER, "min_cosine": 0.99}
    quality = {**BOUNDS, "translations": translations, "retrieval": None}
    folder = prepare(tmp_path, images, mixed, quality)
    said = check(folder)
    assert "20 received" in said
    assert "captions in de to en: 1 of 1 are translations" in said
    first = lines(folder, CHECKED, "kept")[0]
    assert first["id"] == 0
    assert [each["text"] for each in first["captions"]] == [captions[0], captions[0]]
    assert first["captions"][1]["translates"] == "en"
    assert [each["rule"] for each in first["left_out"]] == ["below_reject", "min_cosine"]
    rejected = {each["id"]: each for each in lines(folder, CHECKED, "rejected")}
    every = {each["id"]: each for each in (*rejected.values(), *lines(folder, CHECKED, "kept"))}
    assert every[2]["captions"][0]["cut"]
    assert not any("cut" in each["captions"][0] for place, each in every.items() if place != 2)
    assert rejected[1]["rule"] == "no_translation"
    assert sum(place in rejected for place in range(12, COUNT)) >= 7
    assert sum(place in rejected for place in range(3, 12)) <= 2
    figures = tmp_path / "figures.json"
    assert "de to en: 1 of 1" in curate("report", folder, "--json", figures)
    told = json.loads(figures.read_text())
    scores = [
        c["score"] for r in lines(folder, CHECKED, "kept") for c in r["captions"] if "score" in c
    ]
    assert told["stages"][-1]["mean_quality"] == pytest.approx(sum(scores) / len(scores))
    assert told["translations"]["de to en"] == {"compared": 1, "passed": 1}
    page = (folder / "report.html").read_text()
    assert "score below reject" in page
    assert captions[3] in page


@pytest.mark.parametrize(
    ("scale", "times"), [("cosine", 1), ("clipscore", 2.5), ("torchmetrics", 100)]
)
def test_the_same_limits_on_each_scale(tmp_path, scale, times):
    asked = {"encoder": ENCODER, "scale": scale, "accept": 0.28 * times, "reject": 0.2 * times}
    quality = Quality.model_validate(asked)
    known = limits(tmp_path, quality, "any", "")
    assert (known.accept, known.reject) == (0.28, 0.2)
    assert in_scale(0.3, quality) == pytest.approx(0.3 * times)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scale": None}, "2.5 times the cosine"),
        ({"accept": None}, "`thresholds: calibrated`"),
        ({"thresholds": "calibrated"}, "takes the place"),
        ({"reject": 0.3}, "must not be above"),
        ({"accept": 28}, "scores on the scale cosine lie between -1 and 1"),
        ({"scale": "clipscore", "reject": -0.1}, "lie between 0 and 2.5"),
        ({"accept": math.nan}, "finite number"),
        (
            {"encoder": {"kind": "checkpoint", "path": "x"}, "reject_incomplete": True},
            "name one in `tagger`",
        ),
    ],
)
def test_thresholds_without_their_meaning_are_refused(tmp_path, streets, changed, said):
    folder = prepare(tmp_path, streets[0], streets[1], {**BOUNDS, **changed})
    assert said in check(folder, code=2)


@pytest.mark.slow
def test_a_set_whose_images_do_not_find_their_captions_goes_no_further(tmp_path, streets):
    images, captions = streets
    all_pass = {**BOUNDS, "accept": -1, "reject": -1, "retrieval": {"pool": 20}}
    swapped = [*captions[COUNT // 2 :], *captions[: COUNT // 2]]
    folder = prepare(tmp_path, images, swapped, all_pass)
    for _ in range(2):
        said = check(folder, code=1)
        assert "re-clean the dataset" in said
        assert "of 20 images" in said
    curate("run", folder, code=1)
    assert not (folder / "04_final").exists()
    assert "failed: re-clean the dataset" in curate("status", folder)
    figures = tmp_path / "figures.json"
    curate("report", folder, "--json", figures)
    told = json.loads(figures.read_text())["retrieval_check"]
    assert told["pool"] == 20
    assert told["miss_at_10"] >= 0.2
    assert not told["passed"]
    assert "Captions that images do not find" in (folder / "report.html").read_text()
    # Captions that are all the same are right for each image.
    prepare(tmp_path, images, [captions[0]] * COUNT, all_pass)
    said = check(folder, "--redo", "00_raw")
    assert "1 different captions are too few to tell" in said
    curate("report", folder, "--json", figures)
    told = json.loads(figures.read_text())["retrieval_check"]
    assert (told["miss_at_10"], told["passed"]) == (None, None)


class Blind:
    """An encoder to which all images are the same."""

    digest = "blind"

    def images(self, images):
        return np.ones((len(images), 4), np.float32) / 2


@pytest.mark.slow
def test_thresholds_are_calibrated_for_an_encoder_and_prefix(tmp_path, streets, monkeypatch):
    asked = {"encoder": ENCODER, "prefix": "", "thresholds": "calibrated", "false_reject": 0.1}
    copies = {"embedding": {"encoder": ENCODER, "cosine": "calibrated"}, "min_side": 100}
    folder = prepare(tmp_path, *streets, asked, filter=copies)
    assert "no calibrated threshold of copies" in check(folder, code=2)
    said = curate("calibrate", folder)
    assert "images │ 20" in said and "--to 02_captioned" in said
    copies_found = json.loads((folder / "thresholds.json").read_text())["filter"]
    assert "no calibrated thresholds of pairs" in check(folder, code=2)
    (folder / "thresholds.json").write_text("{")
    assert "`vlm-perception curate calibrate" in check(folder, code=2)
    (folder / "thresholds.json").write_text(json.dumps({"filter": copies_found}))
    # Copies by which a stage was made stay.
    said = curate("calibrate", folder, "--seed", 1)
    assert "good pairs │ 20" in said and "stays" in said
    assert json.loads((folder / "thresholds.json").read_text())["filter"] == copies_found
    check(folder)
    # At most a tenth lies below the limit, and no shuffled pair above it.
    assert len(lines(folder, CHECKED, "kept")) >= 18
    prepare(tmp_path, *streets, asked | {"prefix": "a photo of "}, filter=copies)
    assert "with prefix ''" in check(folder, "--redo", "03_quality_checked", code=2)
    prepare(tmp_path, *streets, asked | {"reject_contradicted": True}, filter=copies)
    assert "for other rules" in check(folder, "--redo", "03_quality_checked", code=2)
    prepare(tmp_path, *streets, asked | {"false_reject": 0.2}, filter=copies)
    assert "with false_reject 0.1" in check(folder, "--redo", "03_quality_checked", code=2)
    rarer = {"embedding": {**copies["embedding"], "false_accept": 0.1}, "min_side": 100}
    prepare(tmp_path, *streets, asked, filter=rarer)
    assert "with false_accept 0.01" in check(folder, "--redo", "01_filtered", code=2)
    prepare(tmp_path, *streets, asked, filter=copies)
    (folder / "synonyms.yaml").write_text("synonyms: {car: [jalopy]}")
    assert "synonyms.yaml has changed" in curate("status", folder)
    assert "another synonyms.yaml" in check(folder, "--redo", "03_quality_checked", code=2)
    (folder / "synonyms.yaml").unlink()
    known = json.loads((folder / "thresholds.json").read_text())
    known["quality"]["absent"] += 1
    (folder / "thresholds.json").write_text(json.dumps(known))
    assert "thresholds.quality.absent was" in curate("status", folder)
    (folder / "thresholds.json").unlink()
    calibration = "vlm_perception.curation.calibration.calibrate_copies"
    monkeypatch.setattr(f"{calibration}.open_encoder", lambda *_: Blind())
    assert "that differ by their hash are the same" in curate("calibrate", folder, code=2)


def test_what_an_encoder_is_counts_until_the_stage_is_complete(tmp_path, streets):
    bundle = tmp_path / "bundle"
    shutil.copytree(ModelBundle.load("roadworld-nano").path, bundle)
    encoder = {"kind": "bundle", "path": "../bundle"}
    folder = prepare(tmp_path, streets[0], streets[1][:1], {**BOUNDS, "encoder": encoder})
    curate("run", folder, "--to", "02_captioned")
    recipe = read_recipe(folder)
    (task,) = check_tasks(folder, recipe)
    edited(bundle, lambda content: content.update(name="another"))
    # As in another process, of another machine.
    for known in (encoders._opened, pair_scores):
        known.cache_clear()
    with pytest.raises(CurationError, match="an encoder of 03_quality_checked changed"):
        next(do_check(task, folder / ".unfinished", None))


def test_images_that_went_missing_are_left_out_of_what_looks_at_all(tmp_path, streets):
    count = 7
    asked = {**BOUNDS, "accept": -1, "reject": -1, "retrieval": None}
    filters = {"filter": {"min_side": 100}}
    folder = prepare(tmp_path, streets[0], streets[1][:count], asked, **filters)
    check(folder)
    gone, cut = (folder / each["file"] for each in lines(folder, CHECKED, "kept")[:2])
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:999])
    curate("report", folder, "--json", tmp_path / "figures.json")
    told = json.loads((tmp_path / "figures.json").read_text())
    assert {each["images"] for each in told["dedup"]} == {count - 2}
    assert "its picture is missing or damaged" in (folder / "report.html").read_text()
    prepare(
        tmp_path, streets[0], streets[1][:count], {**asked, "retrieval": {"pool": 20}}, **filters
    )
    check(folder, "--redo", CHECKED)
    assert json.loads((folder / CHECKED / "retrieval.json").read_text())["pool"] == count - 2
    asked = {"encoder": ENCODER, "prefix": "", "thresholds": "calibrated"}
    rates = {"false_reject": 0.2, "false_accept": 0.2}
    prepare(tmp_path, streets[0], streets[1][:count], {**asked, **rates}, **filters)
    assert f"good pairs │ {count - 2}" in curate("calibrate", folder)


def test_a_checkpoint_whose_files_were_replaced_is_another_one(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    part = {"quality": {"encoder": {"kind": "checkpoint", "path": "checkpoint"}}}
    assert model_digests(tmp_path, part) == {}
    (checkpoint / "model.safetensors").write_bytes(b"one")
    one = model_digests(tmp_path, part)
    (checkpoint / "model.safetensors").write_bytes(b"other")
    other = model_digests(tmp_path, part)
    assert changed_models(one, other) == ["the checkpoint checkpoint is another one now"]
    assert changed_models(one, one) == changed_models(one, {}) == []


def test_nothing_is_calibrated_that_the_recipe_does_not_ask_for(tmp_path, streets):
    folder = prepare(tmp_path, *streets, BOUNDS, filter={"embedding": {"encoder": ENCODER}})
    assert "nothing to calibrate" in curate("calibrate", folder, code=2)
    assert not (folder / "thresholds.json").exists()


def test_an_image_of_good_pairs_is_turned_and_counts_once(tmp_path, streets):
    folder, captions = tmp_path, streets[1]
    image = PIL.Image.open(streets[0] / "00.jpg")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image.transpose(PIL.Image.Transpose.ROTATE_90).save(folder / "a.jpg", exif=exif, quality=95)
    shutil.copy(streets[0] / "01.jpg", folder / "b.jpg")
    shutil.copy(streets[0] / "01.jpg", folder / "c.jpg")
    names = ("a", "a", "b", "c")
    texts = (captions[0], "right, too", captions[1], "as right")
    rows = [{"image": f"{n}.jpg", "captions": [t]} for n, t in zip(names, texts, strict=True)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = {"encoder": ENCODER, "prefix": "", "thresholds": "calibrated", "good_pairs": "."}
    rates = {"false_accept": 0.5, "false_reject": 0.5}
    found = pair_thresholds(folder, Quality.model_validate_json(json.dumps(asked | rates)), 0)
    assert found.pairs == 2
    upright = pair_scores(folder, Quality.model_validate_json(json.dumps(BOUNDS))).cosines(
        {"file": str(streets[0] / "00.jpg"), "sha256": "0" * 64}, [captions[0]]
    )[0]
    other = 2 * found.quantiles["good"]["0.5"] - upright
    alone = pair_scores(folder, Quality.model_validate_json(json.dumps(BOUNDS))).cosines(
        {"file": str(streets[0] / "01.jpg"), "sha256": "1" * 64}, [captions[1]]
    )[0]
    assert other == pytest.approx(alone, abs=0.02)


FEW = settings(deadline=None, max_examples=40)
SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60)


@FEW
@given(st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 3), min_size=1), st.floats(0.01, 0.99))
def test_limits_reject_no_more_good_pairs_than_asked(rows, share):
    figures = dict(zip("abc", np.array(rows).T, strict=True))
    limits = joint_limits(figures, share)
    assert rejected(figures, limits).mean() <= share
    for name, values in figures.items():
        alone = joint_limits({name: values}, share)
        assert limits[name] <= alone[name]


@FEW
@given(SCORES, SCORES, st.floats(0.01, 0.99))
def test_what_equals_both_limits_is_taken(good, shuffled, share):
    lower = joint_limits({"cosine": np.array(good)}, share)["cosine"]
    upper = upper_limit(np.array(shuffled), share, lower)
    taken = np.array(shuffled) > upper
    assert (taken & (np.array(shuffled) >= lower)).mean() <= share
    assert upper >= np.nextafter(lower, -np.inf)


@FEW
@given(st.lists(st.frozensets(st.sampled_from("abcd"), min_size=1), min_size=1), st.integers(0, 9))
def test_captions_of_others_are_none_of_an_images_own(texts, seed):
    for image, partner in enumerate(shuffled_partners(texts, seed)):
        others = [place for place, each in enumerate(texts) if not each & texts[image]]
        assert partner in others if others else partner == image


@pytest.mark.slow
def test_the_exam_tells_wrong_captions_from_right_ones(tmp_path):
    figures = tmp_path / "curation.json"
    words = ["evaluate", "curation", "--scenes", "20", "--json", str(figures)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    known = json.loads(figures.read_text())
    for rules in known["hard_captions"].values():
        assert rules["right_kept"] >= 0.7
        assert rules["auc"]["weather"] > 0.9
        assert rules["auc"]["swapped"] > 0.8
        assert rules["pairs"]["right"] == 20
    # 14 of the 20 have their own caption.
    assert known["retrieval_miss_at_10"]["shuffled"]["kept"] <= 14


def test_without_rules_all_pass(tmp_path, streets):
    folder = prepare(tmp_path, streets[0], streets[1], None)
    assert "20 passed on as they are: the recipe has no `quality`" in check(folder)
    assert "20 passed on as they are" in curate("status", folder)
    assert len(lines(folder, CHECKED, "kept")) == COUNT


def test_doubtful_captions_are_written_again_while_there_are_tries(tmp_path, streets):
    images, captions = streets
    doubtful = [f"a street with {caption.split(' with ')[-1]}" for caption in captions[:8]]
    captioner = {"captioner": ENCODER, "languages": ["en"]}
    quality = {**BOUNDS, "accept": 0.19, "reject": -1, "retrieval": None}
    folder = prepare(tmp_path, images, doubtful, quality, captions=captioner)
    check(folder)
    kept = lines(folder, CHECKED, "kept")
    again = [each for each in kept if "by" in each["captions"][0]]
    assert again
    for record in again:
        assert record["captions"][-1]["score"] > 0.19
        assert record["left_out"][0]["text"] == doubtful[record["id"]]
        assert {each["rule"] for each in record["left_out"]} == {"below_accept"}
    # The source's caption, and what three tries gave, without what was said before.
    rejected = lines(folder, CHECKED, "rejected")
    assert rejected
    assert {each["rule"] for each in rejected} <= {"below_accept"}
    assert all(1 <= len(each["captions"]) <= 4 for each in rejected)


def test_a_try_that_got_no_answer_is_told_and_made_again(tmp_path, streets):
    images, captions = streets
    server = ScriptedJudge(lambda prompt: 400)
    endpoint = {"kind": "endpoint", "url": server.url, "model": MODEL}
    quality = {**BOUNDS, "accept": 0.99, "reject": -1, "retrieval": None}
    asked = {"captioner": endpoint, "tries": 2}
    folder = prepare(tmp_path, images, captions[:2], quality, captions=asked)
    said = check(folder, code=1)
    assert "2 images got no answer when captions were to be written again" in said
    assert "has left nothing of 2 images" in said
    assert "has left nothing of 2 images" in check(folder, code=1)
    told = lines(folder, CHECKED, "rejected")
    assert [[each["fault"] for each in one["answers"]] for one in told] == [
        ["the server refuses this one request"]
    ] * 2
    server.answer = lambda prompt: "a bus"
    assert "got no answer" not in check(folder, "--redo", "03_quality_checked", code=1)
    server.close()
    # One request each in the first run, and two answers in the second.
    assert len(server.asked) == 2 + 2 * 2
    assert [len(each["captions"]) for each in lines(folder, CHECKED, "rejected")] == [2, 2]
