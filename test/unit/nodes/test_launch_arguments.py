# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files refuse before anything starts, and for whom a parameter file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context

from vlm_perception.nodes.launch.arguments import (
    DEMO,
    PERCEPTION,
    REPLAY,
    read_arguments,
    unknown_arguments,
)
from vlm_perception.nodes.launch.params_file import LARGEST_BYTES, read_params_file
from vlm_perception.nodes.process.errors import ArgumentError
from vlm_perception.nodes.video_source import SourceSettings

ENCODER, FUSION = "/front/vision_encoder", "/front/scene_fusion"
PARAMETERS = "{ros__parameters: {bundle: mine}}"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"rate_hz": "abc"}, "rate_hz:=abc: give a number from 0.1 to 240"),
        ({"rate_hz": "nan"}, "give a number"),
        ({"duration_s": "-1"}, "duration_s:=-1: give a number from 0 to 1000000000"),
        ({"loop": "maybe"}, "loop:=maybe: give true or false"),
        ({"loop": ""}, "give true or false"),
        ({"image_transport": "jpeg"}, "give one of: raw, compressed"),
        ({"composition": "one"}, "give one of: processes, single"),
        ({"cameras": "front front"}, "twice"),
        ({"cameras": "a b", "image": "/image"}, "one topic for all cameras"),
        ({"namespace": "fr ont"}, "namespace:=fr ont: Invalid namespace"),
        ({"namespace": "a//b"}, "give one such as front"),
        ({"image": "a b"}, "image:=a b: Invalid topic name"),
        ({"bundle": "nope"}, "bundle:=nope: there is no bundle 'nope'"),
        ({"vocabulary": "/nope"}, "vocabulary:=/nope: /nope does not exist"),
        ({"params_file": "/nope.yaml"}, "/nope.yaml does not exist"),
        ({"params_file": "/tmp"}, "params_file:=/tmp cannot be read (Is a directory)"),
        ({"bag": "/nope"}, "bag:=/nope: /nope does not exist"),
        ({"rate": "0"}, "rate:=0: give a number"),
        ({"delay": "soon"}, "delay:=soon: give a number"),
        ({"record": "/tmp"}, "record:=/tmp: /tmp already exists"),
        ({"language": "mine"}, "language:=mine: give one of: bundle, served"),
        ({"serve": "./nope"}, "nope does not exist; give the directory of a checkpoint, or an id"),
        ({"serve": "/tmp"}, "/tmp/config.json cannot be read (No such file or directory)"),
        ({"serve": "no/body"}, "serve:=no/body is no directory and has not been downloaded"),
        ({"serve": "a/b", "language": "bundle"}, "language:=bundle needs no server"),
        ({"serve": "a/b", "endpoint": "http://a"}, "endpoint:=http://a is another server's"),
        ({"serve": "a/b", "model": "c/d"}, "model:=c/d is another server's"),
        ({"serve_options": "'"}, "serve_options:=': No closing quotation"),
        ({"serve_options": "--max-kv-cache-capacity much"}, "invalid int value: 'much'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], remedy: str
) -> None:
    arguments = [*(REPLAY if given.keys() & {"bag", "rate", "delay", "record"} else DEMO)]
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(ArgumentError) as refused:
        read_arguments([*arguments, *PERCEPTION], {"bag": "/", **given})
    assert remedy in str(refused.value)


def test_values_in_any_usual_spelling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.yaml").write_text(f"/**: {PARAMETERS}")
    for text in ("true", "True", "TRUE", "1", "yes", "on"):
        assert read_arguments(PERCEPTION, {"use_sim_time": text})["use_sim_time"] is True
    assert read_arguments(PERCEPTION, {"use_sim_time": "False"})["use_sim_time"] is False
    values = read_arguments(PERCEPTION, {"namespace": "/front/", "params_file": "~/p.yaml"})
    assert values["namespace"] == "front" and values["params_file"].sections == ("/**",)
    assert values["use_sim_time"] is values["bundle"] is None, "left to params_file"


def write_checkpoint(folder: Path, config: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model-00001-of-00002.safetensors").write_bytes(bytes(300))
    (folder / "model-00002-of-00002.safetensors").write_bytes(bytes(200))
    (folder / "pytorch_model.bin").write_bytes(bytes(500))


QWEN = {
    "num_hidden_layers": 28,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def test_a_checkpoint_to_serve_is_a_directory_or_one_that_was_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "mine", {"text_config": QWEN})
    served = read_arguments(PERCEPTION, {"serve": "mine", "language": "served"})["serve"]
    assert (served.source, served.name) == (str(tmp_path / "mine"), "mine")
    assert served.weight_bytes() == 500
    assert served.kv_bytes_per_token() == 28 * 8 * 128 * 2 * 2

    name = "Qwen/Qwen3-VL-2B-Instruct"
    served = read_arguments(PERCEPTION, {"serve": name, "allow_download": "true"})["serve"]
    assert (served.source, served.name, served.weight_bytes()) == (name, name, None)
    entry = tmp_path / ".cache/tensorrt-edgellm/checkpoints/models--Qwen--Qwen3-VL-2B-Instruct"
    write_checkpoint(entry / "snapshots" / "abc", {"vision_config": {}})
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("abc")
    served = read_arguments(PERCEPTION, {"serve": name})["serve"]
    assert (served.source, served.name, served.weight_bytes()) == (name, name, 500)
    assert served.kv_bytes_per_token() is None


def test_a_rate_is_allowed_that_the_node_takes() -> None:
    setting = SourceSettings.__dataclass_fields__["rate_hz"].metadata["setting"]
    for rate, beyond in ((setting.minimum, -0.01), (setting.maximum, 1.0)):
        assert read_arguments([*DEMO, *PERCEPTION], {"rate_hz": str(rate)})["rate_hz"] == rate
        with pytest.raises(ArgumentError):
            read_arguments([*DEMO, *PERCEPTION], {"rate_hz": str(rate + beyond)})


def test_arguments_that_there_are_not_are_named() -> None:
    line = ["ros2", "launch", "x.launch.py", "imag:=/a", "image:=/b", "zzz:=1", "emulate_tty:=1"]
    first, second = unknown_arguments(line, [each.name for each in PERCEPTION])
    assert "no argument imag" in first and "did you mean image?" in first
    assert "no argument zzz" in second and "--show-args" in second


def parameter(node: str, name: str, *files: Path) -> object:
    """What ROS itself hands to a node of that full name."""
    context = Context()
    context.init(args=["--ros-args", *(t for file in files for t in ("--params-file", str(file)))])
    space, _, base = node.rpartition("/")
    made = rclpy.create_node(base, namespace=space, context=context)
    try:
        return made.declare_parameter(name, "default").value
    finally:
        made.destroy_node()
        context.try_shutdown()


@pytest.mark.parametrize(
    ("section", "holds"),
    [
        ("/**", True),
        ("'**'", True),
        ("/**/vision_encoder", True),
        ("/*/vision_encoder", True),
        ("/front/vision_encoder", True),
        ("front/vision_encoder", True),
        ("/front/*", True),
        ("/**/front/**/vision_encoder", True),
        ("vision_encoder", False),
        ("/rear/vision_encoder", False),
        ("/**/encoder", False),
        ("/*", False),
        ("/*/*/vision_encoder", False),
    ],
)
def test_a_section_holds_for_the_nodes_that_ros_gives_it_to(
    tmp_path: Path, section: str, holds: bool
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{section}: {PARAMETERS}\n/foreign/node: {PARAMETERS}\n")
    assert parameter(ENCODER, "bundle", file) == ("mine" if holds else "default")
    if holds:
        assert read_params_file(file, [ENCODER]).notes == ()
    else:
        with pytest.raises(ArgumentError, match="has no section for /front/vision_encoder, only"):
            read_params_file(file, [ENCODER])


def test_nested_sections_and_nodes_without_one(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"front: {{vision_encoder: {PARAMETERS}}}\nscene_fusion: {PARAMETERS}\n")
    assert parameter(ENCODER, "bundle", file) == "mine"
    (note,) = read_params_file(file, [ENCODER, FUSION]).notes
    assert "no section for /front/scene_fusion, which runs with its defaults" in note
    assert "write /**/scene_fusion" in note


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "has no section for"),
        ("- a\n", "Sequences cannot be key at line 1"),
        ("/**:\n\tros__parameters: {}\n", "is not a ROS parameter file"),
        ("/**: &a {ros__parameters: {b: 1}}\n/c: *a\n", "Will not support aliasing at line 2"),
        ("/**: {ros__parameters: {b: [1, c]}}\n", "Sequence should be of same type"),
        ("bundle: mine\n", "Cannot have a value before ros__parameters at line 1"),
        (b"\x00\xff\x89PNG", "is not a ROS parameter file"),
        ("#" * LARGEST_BYTES + "\n", "is larger than"),
    ],
)
def test_what_is_no_parameter_file_is_refused(
    tmp_path: Path, content: str | bytes, cause: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArgumentError) as refused:
        read_params_file(file, [ENCODER])
    assert cause in str(refused.value)


NAMES = ("/**", "/**/vision_encoder", "/**/**/vision_encoder", "/front/vision_encoder")


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES[1:], NAMES[:1]])
def test_an_argument_outdoes_the_file_however_it_names_the_node(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    file, second = tmp_path / "p.yaml", tmp_path / "q.yaml"
    file.write_text("".join(f"{name}: {PARAMETERS}\n" for name in names))
    name = read_params_file(file, [ENCODER]).name_behind_all("vision_encoder")
    second.write_text(yaml.safe_dump({name: {"ros__parameters": {"bundle": "argument"}}}))
    assert parameter(ENCODER, "bundle", file, second) == "argument"


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES[1:], NAMES[:1], (*NAMES, NAMES[0])])
def test_the_text_of_a_parameter_is_what_ros_hands_to_the_node(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "".join(
            f"---\n{name}: {{ros__parameters: {{bundle: mine {place}}}}}\n"
            for place, name in enumerate(names)
        )
    )
    read = read_params_file(file, [ENCODER])
    assert read.text(ENCODER, "bundle") == parameter(ENCODER, "bundle", file)
    assert read.text(ENCODER, "engine") == ""
