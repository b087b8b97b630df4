# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code says: parameters, manifest keys, commands, the example."""

import dataclasses
import re
import typing

import cv2
import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from support.places import ROOT
from typer.main import get_command

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.files.sheet import write_sheet
from vlm_perception.deploy.checkpoints.bundle_yaml import SPEC_NAME, BundleSpec, load_spec
from vlm_perception.nodes.base.parameters import CONFIGURE, FIXED, LIVE
from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.nodes.scene_fusion import FusionNodeSettings
from vlm_perception.nodes.video_source import SourceSettings
from vlm_perception.nodes.vision_encoder import EncoderSettings
from vlm_perception.types import Status, Trigger

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}

SETTINGS = {
    "vision_encoder": EncoderSettings,
    "language_reasoner": LanguageSettings,
    "scene_fusion": FusionNodeSettings,
    "video_source": SourceSettings,
}
TYPES = {bool: "bool", int: "integer", float: "double", str: "string", tuple: "string[]"}
# What is documented elsewhere: with the manifest, or with its own `image`.
SHARED = {"bundle": ("vocabulary.", "questions."), "manifest": ("language.tower.image.",)}
CHANGES = {LIVE: "dynamic", CONFIGURE: "requires reconfigure", FIXED: "read-only"}


def shown(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value)


def row(field):
    """The line of a parameter in docs/parameters.md."""
    about = field.metadata["setting"]
    allowed = ", ".join(f"`{choice}`" for choice in about.choices)
    if about.minimum is not None:
        allowed = f"{about.minimum:.12g} to {about.maximum:.12g}"
    cells = (
        f"`{field.name}`",
        TYPES[type(field.default)],
        f"`{shown(field.default)}`",
        allowed,
        CHANGES[about.change],
        about.description.replace("|", r"\|"),
    )
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("node", SETTINGS)
def test_parameters_are_documented_as_they_are(node):
    section = re.split(r"^## ", TEXTS["parameters.md"], flags=re.MULTILINE)
    lines = next(part for part in section if part.startswith(node)).splitlines()
    written = [line for line in lines if line.startswith("| `")]
    assert written == [row(field) for field in dataclasses.fields(SETTINGS[node])]


def keys(model, prefix=""):
    """Every key of a manifest, `language.width` for one inside another."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for part in [field.annotation, *parts(field.annotation)]:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys(part, f"{prefix}{name}.")


def parts(annotation):
    for part in typing.get_args(annotation):
        yield part
        yield from parts(part)


@pytest.mark.parametrize(("file", "model"), [("manifest", Manifest), ("bundle", BundleSpec)])
def test_every_key_of_a_bundle_is_documented(file, model):
    section = TEXTS["bundle.md"].partition(f"\n## {file}.yaml\n")[2].partition("\n## ")[0]
    own = {key for key in keys(model) if not key.startswith(SHARED[file])}
    assert own <= set(re.findall(r"`([\w.]+)`", section))


def test_statuses_and_triggers_are_documented():
    documented = set(re.findall(r"`(\w+)`", TEXTS["architecture.md"]))
    assert {status.name for status in Status} | {trigger.value for trigger in Trigger} <= documented


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_the_documents_exist(name):
    for line in re.findall(r"vlm-perception +([a-z][^`\n|#\"]*)", TEXTS[name]):
        command, words = get_command(app), line.split()
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"vlm-perception {line}"
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= options | {"--help"}, f"vlm-perception {line}"


def anchors(text):
    """The names that GitHub gives to the headings."""
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)]+)", path.read_text()):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_the_readme_shows_the_example_as_it_is():
    shown = re.search(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)[1]
    code = (ROOT / "examples" / "stop_for_hazards.py").read_text()
    assert code[code.index("import ") :] == shown


def test_every_room_is_told_of_and_every_place_to_add_to_is_there():
    package, text = ROOT / "vlm_perception", (ROOT / "docs" / "contributing.md").read_text()
    rooms = {str(file.parent.relative_to(package)) for file in package.rglob("__init__.py")}
    rooms |= {f"test/{each.name}/" for each in (ROOT / "test").iterdir() if each.is_dir()}
    told = set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE))
    assert told == rooms - {".", "test/__pycache__/"}
    for place in re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", text):
        assert (package / place).exists() or (ROOT / place).exists(), place


@pytest.mark.parametrize("name", TEXTS)
def test_no_figure_waits_to_be_measured(name):
    assert not re.findall("@@.+?@@", TEXTS[name])


@pytest.mark.parametrize("name", ["README.md", "bundle.md"])
def test_example_of_a_checkpoint_is_valid(name, tmp_path):
    example = re.search(r"```yaml\n(.*?)```", TEXTS[name], re.DOTALL)[1]
    (tmp_path / SPEC_NAME).write_text(example)
    assert load_spec(tmp_path).name == yaml.safe_load(example)["name"]


def test_training_is_documented_as_it_is():
    module = pytest.importorskip("vlm_perception.training.distillation.recipe")
    recipe = module.read_recipe(ROOT / "config" / "distillation" / "roadworld-nano.yaml")
    parts = ((recipe.images, recipe.student), (recipe.language.images, recipe.language))
    for images, part in parts:
        assert f"| {images.count:,}" in TEXTS["roadworld.md"]
        steps = f"| {part.training.steps:,} of {part.training.batch} scenes"
        assert steps in TEXTS["roadworld.md"]


def test_contact_sheet_is_repeatable(tmp_path):
    first = write_sheet(tmp_path / "deep" / "a.png", seed=3, columns=2, rows=1)
    again = write_sheet(tmp_path / "b.png", seed=3, columns=2, rows=1)
    assert first.read_bytes() == again.read_bytes()
    picture = cv2.imread(str(first))
    left, right = picture[:, : picture.shape[1] // 2], picture[:, -(picture.shape[1] // 2) :]
    assert not np.array_equal(left, right)
