# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The package's own files agree with each other, and with the oldest ROS that it runs on."""

import ast
import dataclasses
import re
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from support.places import ROOT
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.nodes.scene_fusion import FusionNodeSettings
from vlm_perception.nodes.vision_encoder import EncoderSettings

SHARE = Path(get_package_share_directory("vlm_perception"))
CMAKE = (ROOT / "CMakeLists.txt").read_text()
NODES = sorted((ROOT / "vlm_perception" / "nodes").rglob("*.py"))

NOT_IN_HUMBLE = {
    "add_pre_set_parameters_callback",
    "add_post_set_parameters_callback",
    "ParameterEventHandler",
    "BEST_AVAILABLE",
    "EventsExecutor",
}
CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
IMPORTED_AS = {
    "backports-zstd": "backports",
    "cuda-python": "cuda",
    "huggingface-hub": "huggingface_hub",
    "lmms-eval": "lmms_eval",
    "onnx-ir": "onnx_ir",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "rerun-sdk": "rerun",
    "scikit-learn": "sklearn",
}
FROM_APT = {
    "numpy": "python3-numpy",
    "opencv-python": "python3-opencv",
    "pillow": "python3-pil",
    "pyyaml": "python3-yaml",
    "rich": "python3-rich",
}
# JetPack's, and Python's own from 3.14 on.
OUTSIDE_PIP = {"tensorrt", "compression"}
UNSAFE_CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_modules_that_strings_name_are_there_and_below():
    """import-linter sees no importlib.import_module and no `python -m`."""
    contract = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    layers = [re.findall(r"\w+", line) for line in re.findall(r'"(.+)"', contract)]
    depth = {room: index for index, rooms in enumerate(layers) for room in rooms}
    for path in sorted((ROOT / "vlm_perception").rglob("*.py")):
        room = path.relative_to(ROOT / "vlm_perception").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and re.fullmatch(r"vlm_perception(\.\w+){2,}", name):
                assert find_spec(name), f"{path}: {name}"
                assert depth[room] <= depth[name.split(".")[1]], f"{path}: {name}"


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_nodes_keep_to_what_humble_has(path):
    tree = ast.parse(path.read_text())
    used = set(names(tree))
    assert not used & NOT_IN_HUMBLE
    assert not {name for name in used if str(name).startswith("rclpy.experimental")}
    # Humble calls it qos_event; the one file that needs it tries both.
    events = used & {"rclpy.event_handler", "rclpy.qos_event"}
    assert not events or (path.name == "qos.py" and len(events) == 2)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert "autostart" not in {keyword.arg for keyword in node.keywords}
        if isinstance(node, ast.With):
            assert "rclpy.init" not in {ast.unparse(item.context_expr)[:10] for item in node.items}


def test_one_version():
    pyproject = (ROOT / "pyproject.toml").read_text()
    declared = ET.parse(ROOT / "package.xml").findtext("version")
    assert re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)[1] == declared
    assert version("vlm_perception") == declared


def test_cmake_names_every_interface_and_program():
    for kind in ("msg", "srv", "action"):
        on_disk = {f"{kind}/{path.name}" for path in (ROOT / kind).iterdir()}
        assert set(re.findall(rf"^  ({kind}/\S+)$", CMAKE, re.MULTILINE)) == on_disk
    programs = set(re.search(r"foreach\(node (.+)\)", CMAKE)[1].split())
    assert programs == {path.stem for path in NODES if "\ndef main()" in path.read_text()}


def test_what_colcon_tests_needs_no_more_than_a_robot_has():
    quick = re.search(r"foreach\(test\s+(.+?)\)", CMAKE, re.DOTALL)[1].split()
    assert len(quick) >= 8
    for name in quick:
        tree = ast.parse((ROOT / "test" / f"{name}.py").read_text())
        used = {part for each in names(tree) for part in str(each).split(".")}
        assert not used & {"hypothesis", "openvino", "torch", "transformers", "checkpoints"}, name


def test_the_command_line_tells_its_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith(f"vlm-perception {version('vlm_perception')} (Python ")


def test_every_requirement_is_pinned():
    pyproject = (ROOT / "pyproject.toml").read_text()
    groups = "dependencies|train|openvino|served|dev|ros"
    lists = re.findall(rf"^(?:{groups}) = \[(.+?)^\]", pyproject, re.M | re.S)
    wanted = {name.lower() for text in lists for name in re.findall(r'^  "([\w-]+)', text, re.M)}
    files = ("constraints.txt", "constraints-no-ros.txt")
    text = "".join((ROOT / name).read_text() for name in files)
    pinned = re.findall(r"^([\w-]+)==", text, re.M)
    assert len(lists) == 6
    assert wanted <= set(pinned)


def test_a_robot_gets_each_requirement_by_pip_or_from_apt():
    listed = re.search(
        r"^dependencies = \[(.+?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    wanted = set(re.findall(r'^  "(.+)",$', listed[1], re.M))
    by_pip = set(re.findall(r"^[a-z].+$", (ROOT / "requirements-robot.txt").read_text(), re.M))
    assert by_pip - wanted == {"numpy<2"}
    by_apt = {each.text for each in ET.parse(ROOT / "package.xml").iter("exec_depend")}
    assert {FROM_APT[re.match(r"[\w-]+", each)[0]] for each in wanted - by_pip} <= by_apt


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_import_is_declared():
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    by_pip = {name.lower() for name in re.findall(r'^  "([\w.-]+)', project, re.M)}
    by_ros = {each.text for each in ET.parse(ROOT / "package.xml").iter() if "depend" in each.tag}
    declared = by_ros | {IMPORTED_AS.get(name, name) for name in by_pip}
    for path in (ROOT / "vlm_perception").rglob("*.py"):
        foreign = set(imported(path)) - sys.stdlib_module_names - {"vlm_perception", *OUTSIDE_PIP}
        assert foreign <= declared, f"{path} imports {', '.join(foreign - declared)}"


def test_parameter_file_is_accepted_by_the_nodes():
    settings = {
        "/**/vision_encoder": EncoderSettings,
        "/**/language_reasoner": LanguageSettings,
        "/**/scene_fusion": FusionNodeSettings,
    }
    content = yaml.safe_load((SHARE / "config" / "perception.yaml").read_text())
    assert set(content) == set(settings), "video_source warns of what a wider section holds"
    for node, section in content.items():
        fields = {field.name: field for field in dataclasses.fields(settings[node])}
        for name, value in section["ros__parameters"].items():
            field = fields[name]
            field.metadata["setting"].check(name, type(field.default), value)


@pytest.mark.slow
def test_no_file_that_is_read_runs_code():
    """Data come in formats that hold data alone."""
    found = []
    for path in sorted((ROOT / "vlm_perception").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                found += [f"{path.name}: {name}" for name in modules & CODE_IN_DATA]
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                # The one file that chooses between the safe loaders.
                unsafe = (
                    name in UNSAFE_CALLS and f"{path.name}: {name}" != "yaml_files.py: yaml.load"
                )
                unsafe |= "True" in (given.get("allow_pickle"), given.get("trust_remote_code"))
                if unsafe or (name == "torch.load" and given.get("weights_only") != "True"):
                    found.append(f"{path.name}: {name}")
    assert not found
