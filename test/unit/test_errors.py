# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that are meant for people have a base of their own; faults of the program keep a trace."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.camera import image, picture, stamped
from support.embedding_camera import EmbeddingCamera
from support.places import SUPPORT
from support.ros_graph import BEST_EFFORT, Graph, wait_until
from typer.testing import CliRunner

import vlm_perception
from vlm_perception.action import Describe
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.cli.options.common import BAD_INPUT, FAILED
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.srv import Ask, SetVocabulary

ROOT = Path(vlm_perception.__file__).parent
FILES = {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in ROOT.rglob("*.py")}
BASE = VlmPerceptionError.__name__
NO_FAILURE = {"EndedError", "ConnectionMade"}
"""End what is being done, whoever catches errors on the way."""
ASKED_FOR = {
    # Validators of pydantic.
    "bundle/manifest.py",
    "bundle/site_vocabulary.py",
    "modeling/bridge_spec.py",
    "curation/recipe.py",
    "deploy/compression/precision_config.py",
    "deploy/checkpoints/bundle_yaml.py",
    "deploy/tables/models.py",
    "outputs/mark.py",
    "training/distillation/recipe.py",
    "media/image_message.py",
    "perception/reasoning/questions.py",
    # The parser's hook for constants.
    "perception/locating/formats/qwen_json.py",
    "replay/report/scene_log.py",
}
"""Where a library wants ValueError and nothing else."""
READS_DAMAGED = {
    ("common/yaml_files.py", "parse_yaml"),
    ("perception/served/record.py", "read"),
    ("replay/resume.py", "read_checkpoint"),
    ("replay/resume.py", "restore"),
    ("replay/storage/mcap_scan.py", "_take"),
    ("replay/storage/mcap_scan.py", "_unpack"),
    ("replay/recordings/writer.py", "_copy_topic"),
    ("replay/storage/ros1_scan.py", "_take"),
}
"""Functions whose own helpers take apart what somebody's file holds."""


def test_each_error_of_the_package_has_its_base() -> None:
    bases = {
        each.name: {base.id for base in each.bases if isinstance(base, ast.Name)}
        for tree in FILES.values()
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
    }
    raised = {name for name in bases if _is_exception(name, bases)}
    assert {"BundleError", "SettingError", "DiskFullError", BASE} <= raised
    assert {each for each in raised if not _descends(each, bases)} == NO_FAILURE


def _is_exception(name: str, bases: dict[str, set[str]]) -> bool:
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, BaseException):
        return True
    return any(_is_exception(base, bases) for base in bases.get(name, ()) if base != name)


def _descends(name: str, bases: dict[str, set[str]]) -> bool:
    return name == BASE or any(_descends(base, bases) for base in bases.get(name, ()))


@pytest.mark.slow
def test_value_errors_are_caught_of_libraries_only_and_raised_for_them_only() -> None:
    caught = {
        (file, function.name)
        for file, tree in FILES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for body in _guarded_bodies(function)
        if any(_is_own(call, tree) for call in body)
    }
    assert caught == READS_DAMAGED
    raised = {
        file
        for file, tree in FILES.items()
        for each in ast.walk(tree)
        if isinstance(each, ast.Raise) and ast.unparse(each).startswith("raise ValueError")
    }
    assert raised == ASKED_FOR
    judged = {
        file
        for file, tree in FILES.items()
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "isinstance" and _names_it(each)
    }
    assert not judged


def _guarded_bodies(function: ast.FunctionDef) -> Iterator[list[ast.Call]]:
    """The calls of each block whose ValueErrors are caught."""
    for each in ast.walk(function):
        caught: list[ast.expr | None] = []
        if isinstance(each, ast.Try):
            caught = [handler.type for handler in each.handlers]
        elif isinstance(each, ast.With):
            caught = [item.context_expr for item in each.items if _is_suppress(item)]
        else:
            continue
        if any(kind is not None and _names_it(kind) for kind in caught):
            yield [call for part in each.body for call in ast.walk(part) if _is_call(call)]


def _is_suppress(item: ast.withitem) -> bool:
    call = item.context_expr
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "suppress"


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call)


def _names_it(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "ValueError" for each in ast.walk(node))


def _is_own(call: ast.Call, tree: ast.Module) -> bool:
    """Whether what is called is code of the package."""
    called = ast.unparse(call.func).split(".")[0]
    imported = {
        alias.asname or alias.name
        for each in ast.walk(tree)
        if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("vlm_perception")
        for alias in each.names
        # Records and enumerations, which Python's library makes the constructors of.
        if "vlm_perception.types" not in (each.module, f"{each.module}.{alias.name}")
    }
    defined = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    return called == "self" or called in imported | defined


ENGINE = "vlm_perception.engines.onnxruntime:OnnxRuntimeEngine.run"
FAULTS = {
    "vision_encoder": (
        f"{ENGINE} vlm_perception.perception.vision.vocabulary:VocabularyBuilder.build"
    ),
    "language_reasoner": (
        f"{ENGINE} vlm_perception.perception.reasoning.reasoner:Reasoner.set_instruction"
    ),
    "scene_fusion": "vlm_perception.perception.fusion.scene:SceneFusion.fuse",
}
"""Where the code of each node fails."""


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is started by way of `faulty` fails while there is this file."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return tmp_path / "fault"


def test_faults_of_the_program_are_counted_with_their_trace_and_refuse_nothing(
    graph: Graph, siglip_bundle: ModelBundle, fault: Path
) -> None:
    engine = {"bundle": siglip_bundle.path, "engine": "onnxruntime"}
    given = {"vision_encoder": engine, "language_reasoner": {**engine, "niceness": 0}}
    processes = [
        graph.start(
            name,
            "__ns:=/front",
            runner=["faulty", str(fault), places],
            **given.get(name, {}),
        )
        for name, places in FAULTS.items()
    ]
    for name in FAULTS:
        graph.wait_active(f"front/{name}")
    camera = EmbeddingCamera(graph, siglip_bundle, 20.0)

    def internal(name: str) -> int:
        values = graph.values(f"front/{name}")
        assert not int(values.get("bad_messages.refused", 0)), values
        return int(values.get("bad_messages.internal_errors", 0))

    try:
        wait_until("an answer", lambda: ask(graph).success)
        images = graph.publisher(Image, "front/image", BEST_EFFORT)
        fault.touch()
        graph.publisher(String, "front/instruction").publish(String(data="a car"))
        replace = SetVocabulary.Request(labels=["zebra"])
        refused = graph.call(SetVocabulary, "/front/vision_encoder/set_vocabulary", replace)
        told = [refused.message, ask(graph).message, describe(graph).message]
        assert not refused.accepted
        for sentence in told:
            assert sentence.startswith("internal error (ValueError: operands"), told

        def all_failed() -> bool:
            images.publish(stamped(image(picture(64, 36), "rgb8"), time.time_ns()))
            return all(internal(name) > 1 for name in FAULTS)

        wait_until("all faults", all_failed)
        fault.unlink()
        wait_until("an answer again", lambda: ask(graph).success)
    finally:
        camera.close()
    for process in processes:
        assert "in faulty\n" in process.log() and "ValueError: operands" in process.log()


def test_a_fault_of_the_program_ends_a_verb_with_its_trace(
    siglip_bundle: ModelBundle, fault: Path, tmp_path: Path
) -> None:
    fault.touch()
    place = "vlm_perception.bundle.bundle:ModelBundle.verify_golden"
    command = [sys.executable, "-m", "faulty", str(fault), place]
    command += ["vlm_perception.cli", "bundle", "show"]
    faulty, refused = (
        subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        for name in (str(siglip_bundle.path), "nonesuch")
    )
    assert faulty.returncode == FAILED
    assert "Traceback" in faulty.stderr and "ValueError: operands" in faulty.stderr
    assert refused.returncode == BAD_INPUT
    assert (
        refused.stderr.startswith("error: there is no bundle") and refused.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "a.mcap", "--start", "inf"),
        ("roadworld", "clip", "--seconds", "1e300"),
        ("export", "a", "--out", "b", "--budget-ms", "nan"),
        ("evaluate", "drift", "--heads", "0.5", "--heads", "nan"),
    ],
)
def test_what_is_no_number_is_refused_by_each_verb(command: tuple[str, ...]) -> None:
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == BAD_INPUT
    assert "is not a number up to 1e+09" in " ".join(refused.output.split())


def ask(graph: Graph) -> Ask.Response:
    request = Ask.Request(question="is the road wet", choices=["yes", "no"])
    return graph.call(Ask, "/front/language_reasoner/ask", request)


def describe(graph: Graph) -> Describe.Result:
    client = ActionClient(graph.node, Describe, "/front/language_reasoner/describe")
    assert client.wait_for_server(20.0)
    goal = client.send_goal_async(Describe.Goal())
    wait_until("a goal's acceptance", goal.done)
    result = goal.result().get_result_async()
    wait_until("a result", result.done)
    client.destroy()
    return result.result().result
