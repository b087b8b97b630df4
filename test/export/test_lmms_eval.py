# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle as a model of the real lmms-eval, in the environment that `make check-lmms` makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import make_checkpoint, pair_up, set_config
from support.dataset_hub import COMMIT, dataset_hub
from support.lmms_sets import (
    MMBENCH,
    MMMU,
    ON_HUB,
    REALWORLDQA,
    ROWS,
    TWO_IMAGES,
    mmbench_rows,
    mmmu_rows,
    realworldqa_rows,
)
from support.places import ROOT, SUPPORT

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.evaluation.lmms.figures import Record, figures
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

pytestmark = pytest.mark.slow
PYTHON = ROOT / "build" / "lmms" / "bin" / "python"
TEMPLATE = (
    "{% for message in messages %}<bos>"
    "{% for part in message.content if part.type == 'image' %}<image>{% endfor %}question: "
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %} answer:"
    "{% endfor %}"
)
"""Makes of a question what bundle.yaml of the small checkpoints says."""
SHARED = "roadworld-nano"
"""The bundle of the command line; its language model reads what the encoder has pruned."""
ENTRY_POINTS = "lmms_eval.models"
LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Done:
    """What lmms-eval has done."""

    found: dict[str, Any]
    """Of the driver."""
    report: dict[str, Any]
    """The JSON file of the command."""
    hub_report: Path
    """That file of the run with a data set of the hub."""
    records: dict[str, list[Record]]
    """By task."""
    own: ModelBundle
    """A LLaVA with a vision tower of its own, which lmms-eval asked by name."""


@pytest.fixture(scope="module")
def done(siglip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Everything that lmms-eval does in these tests."""
    if not PYTHON.exists():
        pytest.skip("lmms-eval is not there: make check-lmms makes its environment")
    folder = tmp_path_factory.mktemp("lmms")
    checkpoint = make_checkpoint(folder / "clip", family="clip", decoder="qwen2")
    (checkpoint / "vlm" / "chat_template.jinja").write_text(TEMPLATE)
    # As with published models, nothing is put behind a prompt.
    set_config(checkpoint / "vlm" / "tokenizer.json", post_processor=None)
    own = export_bundle(pair_up(folder / "pair", siglip_checkpoint, checkpoint), folder / "own")
    run(folder, SUPPORT / "lmms_sets.py", folder / "sets")
    job = {
        "tasks": str(folder / "sets" / "tasks"),
        "out": str(folder / "out"),
        "bundle": SHARED,
        "models": [
            ("llava_hf", f"pretrained={checkpoint / 'vlm'},dtype=float32,device_map=cpu"),
            ("vlm_perception", f"bundle={folder / 'own'}"),
        ],
    }
    (folder / "out").mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    with dataset_hub(ON_HUB, folder / "sets" / REALWORLDQA) as hub:
        run(folder, SUPPORT / "lmms_driver.py", folder / "job.json", hub=hub)
    rows = map(json.loads, (folder / "out" / "all" / "records.jsonl").read_text().splitlines())
    records: dict[str, list[Record]] = {}
    for row in rows:
        records.setdefault(row["task"], []).append(Record(**row))
    return Done(
        found=json.loads((folder / "found.json").read_text()),
        report=json.loads((folder / "out" / "all.json").read_text()),
        hub_report=folder / "out" / "hub.json",
        records=records,
        own=own,
    )


def run(folder: Path, *command: Path, hub: str = "") -> None:
    """Run a script with lmms-eval, which finds the entry point that pip would install."""
    plugin = folder / "plugin" / "vlm_perception_plugin-0.dist-info"
    plugin.mkdir(parents=True, exist_ok=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 0\n")
    declared = re.search(
        rf'^\[project.entry-points."{ENTRY_POINTS}"\]\n(\w+) = "(.+)"$',
        (ROOT / "pyproject.toml").read_text(),
        re.M,
    )
    assert declared is not None
    text = f"[{ENTRY_POINTS}]\n{declared[1]} = {declared[2]}\n"
    (plugin / "entry_points.txt").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder / 'plugin'}:{ROOT / 'test'}",
        "HF_HOME": str(folder / "huggingface"),
        **({"HF_ENDPOINT": hub} if hub else {"HF_HUB_OFFLINE": "1"}),
    }
    done = subprocess.run(
        [PYTHON, *command],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def asked() -> dict[str, list[tuple[Any, str]]]:
    """Image and text of each row, as the sets' papers and lmms-eval's tasks have them."""
    mmbench = []
    for row in mmbench_rows():
        choices = [f"{letter}. {row[letter]}" for letter in "ABCD" if row[letter] != "nan"]
        hint = "" if row["hint"] == "nan" else f"{row['hint']} "
        options = "There are several options:\n" + "\n".join(choices)
        mmbench.append((row["image"], f"{hint}{row['question']} {options}\n{LETTER}"))
    mmmu = []
    for row in mmmu_rows():
        question = row["question"].replace("<image 1>", "\n").strip()
        if row["question_type"] == "open":
            question += "\n\nAnswer the question using a single word or phrase."
        else:
            options = zip("ABCD", ("red", "yellow", "green", "none"), strict=True)
            question += "".join(f"\n{letter}. {option}" for letter, option in options)
            question += f"\n{LETTER}"
        mmmu.append((row["image_1"], question))
    realworldqa = [(row["image"], row["question"]) for row in realworldqa_rows()]
    return {MMBENCH: mmbench, REALWORLDQA: realworldqa, MMMU: mmmu}


def answers(bundle: ModelBundle, rows: list[tuple[Any, str]], max_tokens: int) -> list[str]:
    """What the networks of a bundle answer, asked directly."""
    encoder, language = VisionEncoder(bundle, temporal=False), LanguageModel(bundle)
    said = []
    for picture, text in rows:
        frame = Frame(np.array(picture), 0)
        seen = language.alone(language.read(encoder.encode(frame, 0)))
        said.append(language.generate(seen, text, max_tokens=max_tokens).text)
    return said


@pytest.mark.parametrize(("name", "tokens"), [(MMBENCH, 1024), (REALWORLDQA, 16), (MMMU, 128)])
def test_answers_are_those_of_the_networks(done, name, tokens):
    records = done.records[f"made_{name}"]
    assert [record.row for record in records] == list(range(ROWS))
    left_out = TWO_IMAGES if name == MMMU else ()
    rows = [each for number, each in enumerate(asked()[name]) if number not in left_out]
    said = [record.text for record in records if record.row not in left_out]
    assert said == answers(ModelBundle.load(SHARED), rows, tokens)
    assert len(set(said)) > 1


def test_rows_with_two_images_are_errors_and_counted(done):
    figures_of = done.report["tasks"][f"made_{MMMU}"]
    assert (figures_of["rows"], figures_of["errors"]) == (ROWS, len(TWO_IMAGES))
    for record in done.records[f"made_{MMMU}"]:
        assert ("2 images" in record.error) == (record.row in TWO_IMAGES)
        if record.row not in TWO_IMAGES:
            assert record.moved == (record.row % 2 == 0)
    assert "2 x the row has 2 images" in done.found["completed"][1]


def test_an_interrupted_run_goes_on_where_it_stopped(done):
    assert done.found["interrupted"][0] != 0
    assert done.found["completed"][0] == 0
    assert done.found["calls"] == 3 * ROWS + 1


def test_figures_follow_from_the_rows_and_name_what_they_belong_to(done):
    for (task, records), each in zip(done.records.items(), done.report["sets"], strict=True):
        said = done.report["tasks"][task]
        for metric, value in figures(records).items():
            assert said[metric] == pytest.approx(value, abs=1e-4), (task, metric)
        assert each["name"] == task
        assert len(each["version"]) == len(each["task_digest"]) == 64
    metrics = {task: set(records[0].scores) for task, records in done.records.items()}
    assert metrics == {
        f"made_{MMBENCH}": {"gpt_eval_score"},
        f"made_{REALWORLDQA}": {"exact_match"},
        f"made_{MMMU}": {"mmmu_acc"},
    }
    assert [each["split"] for each in done.report["sets"]] == ["dev", "test", "validation"]
    assert done.report["bundle_digest"] == ModelBundle.load(SHARED).digest


def test_a_set_of_the_hub_is_named_by_its_commit(done):
    assert done.found["hub"][0] == 0, done.found["hub"][1]
    assert COMMIT in done.found["hub"][1]
    here, there = done.report["sets"][1], json.loads(done.hub_report.read_text())["sets"][0]
    assert (there["version"], there["revision"], there["dataset_path"]) == (COMMIT, COMMIT, ON_HUB)
    assert here["revision"] is None


def test_what_cannot_be_evaluated_is_refused_in_one_sentence(done):
    code, said = done.found["judged"]
    assert code == 2 and "api.openai.com" in said and "mmbench_en_dev_static" in said
    code, said = done.found["unknown"]
    assert code == 2 and "made_mmbench" in said


def test_transformers_and_its_bundle_give_the_same_answers(done):
    by_transformers, by_bundle = done.found["by_name"]
    # Bytes that are no whole character: a bundle leaves them out at the end, where more may come.
    assert [text.rstrip("\ufffd").strip() for text in by_transformers] == by_bundle
    assert len(set(by_bundle)) > ROWS / 2
    # lmms-eval takes the spaces around answers away.
    assert by_bundle == [text.strip() for text in answers(done.own, asked()[REALWORLDQA], 16)]
