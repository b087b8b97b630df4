# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""04_final: what belongs together stays together, the shards are whole, and reading goes on."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from itertools import islice

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.curation import curate, picture, saved, write_recipe

from vlm_perception.curation.final.groups import Sorter
from vlm_perception.curation.final.splits import assigned
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.recipe import Recipe, read_recipe
from vlm_perception.curation.report.seen import observer
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, find_final
from vlm_perception.datasets.shuffled import Shuffled, places
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.labelled_images import LabelledFolder
from vlm_perception.evaluation.retrieval.sets import CaptionedFolder
from vlm_perception.media.image_errors import ImageError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
DRIVES = {"a": 12, "b": 6, "c": 4, "d": 4, "e": 4}


def prepare(folder, shard_mb=1, **source):
    return write_recipe(
        folder,
        sources=[{"kind": "captions", "path": "../images", **source}],
        final={"splits": SHARES, "shard_mb": shard_mb},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of five drives."""
    root = tmp_path_factory.mktemp("curated")
    seed, lines = 0, []
    for drive, frames in DRIVES.items():
        (root / "images" / drive).mkdir(parents=True)
        for frame in range(frames):
            name, seed = f"{drive}/{frame}.png", seed + 1
            (root / "images" / name).write_bytes(saved(picture(seed), "PNG"))
            lines.append({"image": name, "captions": [f"frame {seed}"], "language": "en"})
    (root / "images" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seen = [{"image": each["image"], "objects": ["bus", each["image"][0]]} for each in lines]
    (root / "images" / "objects.jsonl").write_text("\n".join(map(json.dumps, seen)))
    folder = prepare(root / "set")
    told = curate("run", folder)
    return folder, told


def test_a_recording_is_in_one_split(made):
    folder, told = made
    final = folder / "04_final"
    manifest = json.loads((final / "stage.json").read_text())
    assert manifest["received"] == manifest["kept"] == sum(DRIVES.values())
    kept = [json.loads(line) for line in (final / "kept.jsonl").open()]
    pairs = {(each["path"].partition("/")[0], each["split"]) for each in kept}
    assert len(pairs) == len(DRIVES)
    assert {split for _, split in pairs} == set(SHARES)
    assert "add recordings" in told
    assert "add recordings" in curate("status", folder)


def test_shards_and_indexes_hold_every_image_with_its_provenance(made):
    folder, _ = made
    final = folder / "04_final"
    kept = {json.loads(line)["id"]: json.loads(line) for line in (final / "kept.jsonl").open()}
    seen = 0
    for split in SHARES:
        rows = pyarrow.parquet.read_table(final / f"{split}.parquet").to_pylist()
        assert len(FinalSplit(final, split)) == len(rows)
        for row, image in zip(rows, FinalSplit(final, split), strict=True):
            record = kept[row["id"]]
            assert image.record == json.loads(row["record"])
            assert image.file == (folder / record["file"]).read_bytes()
            assert row["sha256"] == record["sha256"]
            assert (row["path"], row["shard"]) == (record["path"], record["shard"])
            assert row["captions"] == [{**record["captions"][0], "by": None}]
            assert image.captions[0].text == record["captions"][0]["text"]
            assert image.pixels().shape == (240, 320, 3)
            with tarfile.open(final / row["shard"]) as tar:
                assert tar.extractfile(row["image"]).read() == image.file
            seen += 1
    assert seen == len(kept)
    assert len({each["shard"] for each in kept.values()}) > len(SHARES)


def test_unrelated_images_are_divided_as_asked_for(made):
    folder, _ = made
    own = prepare(folder.parent / "unrelated", unrelated=True)
    shutil.copytree(folder / "00_raw", own / "00_raw")
    told = curate("run", own)
    # Only the splits depend on it.
    assert "00_raw: complete" in told
    assert "add recordings" not in told
    found = Counter(json.loads(line)["split"] for line in (own / "04_final" / "kept.jsonl").open())
    assert found == {"train": 24, "validation": 3, "test": 3}


def test_what_was_altered_is_refused_with_its_name(made, tmp_path):
    final = shutil.copytree(made[0] / "04_final", tmp_path / "04_final")
    shard = final / "train" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:-20_000])
    with pytest.raises(FinalSetError, match=r"000000\.tar"):
        list(FinalSplit(final, "train"))
    image = next(iter(FinalSplit(final, "test")))
    broken = type(image)(image.key, image.where, image.file[:200], image.record)
    with pytest.raises(ImageError, match=rf"test/000000.tar/{image.key}.png"):
        broken.pixels()
    (final / "set.json").write_text((final / "set.json").read_text().replace('"test"', '"exam"'))
    with pytest.raises(FinalSetError, match="digest"):
        FinalSplit(final, "exam")


def test_a_path_leads_to_a_split(made, tmp_path):
    folder, _ = made
    final = folder / "04_final"
    assert find_final(folder) == find_final(final) == (final, "test")
    assert find_final(final / "train") == (final, "train")
    assert find_final(tmp_path) is None
    with pytest.raises(FinalSetError, match="it has test, train, validation"):
        FinalSplit(*find_final(final / "exam"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.lists(st.integers(0, 30), max_size=3))
def test_an_order_goes_on_after_any_interruptions(made, seed, cuts):
    split = FinalSplit(made[0] / "04_final", "train")
    count = 3 * len(split) + sum(cuts)
    whole = [each.key for each in islice(Shuffled(split, seed=seed), count)]
    assert [len({*whole[at : at + len(split)]}) for at in (0, len(split))] == [len(split)] * 2
    found, state = [], None
    for cut in cuts:
        some = Shuffled(split, seed=seed, state=state)
        found += [each.key for each in islice(some, cut)]
        state = json.loads(json.dumps(some.state()))
    rest = Shuffled(split, seed=seed, state=state)
    found += [each.key for each in islice(rest, count - len(found))]
    assert found == whole
    with pytest.raises(FinalSetError, match="another seed"):
        Shuffled(split, seed=9, state=Shuffled(split).state())


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20), st.text(max_size=3))
def test_an_epoch_has_every_image_once(images, buffer, seed):
    every = [(shard, place) for shard, count in enumerate(images) for place in range(count)]
    assert sorted(places(images, seed, buffer)) == every


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=3, max_size=20), st.integers(0, 9))
def test_no_split_is_empty_and_none_is_far_off(sizes, seed):
    splits = assigned(sizes, SHARES, seed)
    assert splits == assigned(sizes, dict(reversed(SHARES.items())), seed)
    given_ = {
        name: sum(s for s, at in zip(sizes, splits, strict=True) if at == name) for name in SHARES
    }
    assert all(given_.values())
    for name, share in SHARES.items():
        assert given_[name] <= share * sum(sizes) + max(sizes)


SOURCES = [
    {"kind": "recording", "path": "x", "place": "lisbon"},
    {"kind": "recording", "path": "y"},
    {"kind": "folder", "path": "z", "place": "lisbon"},
    {"kind": "folder", "path": "w", "unrelated": True},
    {"kind": "harvest", "path": "h"},
    {"kind": "captions", "path": "z/a"},
]


def sorter_of(folder, sources):
    recipe = Recipe.model_validate_json(json.dumps({"sources": sources}))
    return Sorter(folder, recipe.sources)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("xyc"), st.integers(0, 12)),
        min_size=1,
        max_size=30,
    )
)
def test_groups_are_recordings_places_folders_and_equal_files(tmp_path_factory, images):
    sorter, keys = sorter_of(tmp_path_factory.getbasetemp() / "none", SOURCES), []
    for number, (source, name, content) in enumerate(images):
        sha256 = f"{content:016x}" + "0" * 48
        path = "p.jpg" if source == 5 else f"{'a' if name == 'x' else name}/p.jpg"
        known = {"id": number, "source": source, "recording": name, "path": path, "sha256": sha256}
        sorter.add(known)
        own = {
            0: "x",
            1: "y",
            2: ("z", path[0]),
            3: number,
            4: name if name in "xy" else ("harvested", name),
            5: ("z", "a"),
        }
        keys.append({sha256, own[source], *(["lisbon"] if source in (0, 2) else [])})
    # The same by brute force.
    merged = list(keys)
    for _ in images:
        merged = [set().union(*(other for other in merged if other & mine)) for mine in merged]
    wanted = [next(i for i, other in enumerate(merged) if other == mine) for mine in merged]
    groups = sorter.groups()
    found = [int(np.argmax(groups.of_images == each)) for each in groups.of_images]
    assert found == wanted
    assert groups.sizes.sum() == len(images)


def test_parts_of_a_bag_and_copies_that_were_left_out_join_what_they_are_from(tmp_path):
    (tmp_path / "drive").mkdir()
    for name in ("metadata.yaml", "drive_0.db3"):
        (tmp_path / "drive" / name).touch()
    (tmp_path / "link").symlink_to("drive")
    sources = [
        {"kind": "recording", "path": "link"},
        {"kind": "recording", "path": "drive/drive_0.db3"},
        {"kind": "harvest", "path": "h"},
        {"kind": "folder", "path": "a"},
        {"kind": "folder", "path": "b"},
        {"kind": "folder", "path": "c", "unrelated": True},
    ]
    records = [
        {
            "id": i,
            "source": i,
            "path": "0.jpg",
            "recording": "drive_0.db3",
            "sha256": f"{i}" + "0" * 63,
        }
        for i in range(len(sources))
    ]
    copies = {"phash_distance": [0, 0, 0, 1, 1, 2], "embedding_cosine": [0, 0, 0, 1, 2, 3]}
    for rule, groups in copies.items():
        sorter = sorter_of(tmp_path, sources)
        # Of `b`, a copy of the only image of `a`.
        left_out = {"id": 9, "rule": rule, "stayed": 3, "sha256": "f" * 64}
        sorter.add_left_out(records[4] | left_out)
        for each in records:
            sorter.add_stayed(each)
        for each in records:
            sorter.add(each)
        assert sorter.groups().of_images.tolist() == groups


def test_shares_that_are_no_whole_are_refused(tmp_path):
    folder = prepare(tmp_path / "set")
    recipe = (folder / "recipe.yaml").read_text().replace("0.8", "0.7")
    (folder / "recipe.yaml").write_text(recipe)
    assert "add up to 1" in curate("status", folder, code=2)


def test_evaluations_read_a_split_as_they_read_a_folder(made, tmp_path):
    folder, _ = made
    split = tmp_path / "split"
    split.mkdir()
    captions, objects = [], []
    for image in FinalSplit(folder / "04_final", "train"):
        (split / image.where.name).write_bytes(image.file)
        texts = [each.text for each in image.captions]
        line = {"image": image.where.name, "captions": texts, "language": "en"}
        captions.append(json.dumps(line))
        objects.append(json.dumps({"image": image.where.name, "objects": image.record["objects"]}))
    (split / "captions.jsonl").write_text("\n".join(captions))
    (split / "objects.jsonl").write_text("\n".join(objects))

    def known(path):
        captioned = CaptionedFolder(path, skip_broken=False)
        labelled = LabelledFolder(path, skip_broken=False)
        pairs = [(each.name, each.digest, each.captions) for each in captioned]
        seen = [(each.name, each.objects, each.read().sum()) for each in labelled]
        return pairs, seen, captioned.notes()

    assert known(folder / "04_final" / "train") == known(split)
    described = CaptionedFolder(folder, skip_broken=False).described()
    assert (described["name"], described["split"]) == ("set", "test")
    assert open_data(folder).has("captions.jsonl")
    assert not open_data(folder).has("answers.jsonl")
    # Other people have files of these names, too.
    for name, text in {"recipe.yaml": "soup: [leek]", "set.json": '{"splits": 3}'}.items():
        (split / name).write_text(text)
    assert known(split) == known(folder / "04_final" / "train")
    assert find_final(split / "below") is None
    (tmp_path / "recipe.yaml").write_text("sources: []")
    with pytest.raises(FinalSetError, match="curate run"):
        open_data(tmp_path)


def test_the_report_has_the_health_of_each_stage(made, tmp_path):
    folder, _ = made
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["health"] = {"bundle": "roadworld-nano", "images": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    curate("report", folder, "--json", tmp_path / "figures.json")
    stages = json.loads((tmp_path / "figures.json").read_text())["stages"]
    last = stages[-1]["health"]
    assert last["images_per_size_bucket"]["224-447"] == last["images_with_captions"] == 30
    assert last["caption_words"] == {"p5": 2.0, "median": 2.0, "p95": 2.0}
    assert last["captions_per_language"] == {"en": 30}
    assert last["recordings"] == len(DRIVES)
    assert last["images_per_recording"][0]["recording"] == "a"
    assert last["images_per_recording"][0]["share"] == pytest.approx(0.4)
    assert sum(last["images_per_split"].values()) == 30
    assert last["seen"] == stages[0]["health"]["seen"]
    assert last["seen"]["images"] == 2
    assert {sum(each.values()) for each in last["seen"]["answers"].values()} == {1.0}
    assert len(list((folder / "journal").rglob("*.json"))) == 2
    # What could not be read is looked at again when it is there.
    copied = shutil.copytree(folder, tmp_path / "set", ignore=shutil.ignore_patterns("journal"))
    away = (copied / "00_raw" / "images").rename(tmp_path / "away")
    run = observer(copied, read_recipe(copied))
    records = list(read_lines(copied / "00_raw" / "kept.jsonl"))
    assert run.seen(records, "00_raw")["images"] == 0
    away.rename(copied / "00_raw" / "images")
    assert run.seen(records, "00_raw")["images"] == 2
