# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files under the real launch: what they start, refuse, start again and leave behind.

Our player stands in for `ros2 bag play` (C++), and `transformers serve` for TensorRT Edge-LLM's
server, which needs a GPU.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.places import ROOT
from support.real_servers import CannotServeError, transformers_serve
from support.ros_graph import Graph, wait_until

from vlm_perception.msg import SceneReasoning, VisionEmbedding

pytest.importorskip("launch_ros", reason="comes with a ROS installation, not from PyPI")

STUDENT = ROOT / "checkpoints" / "roadworld-nano" / "vlm"
DOMAIN = 60 + os.getpid() % 40
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [each.split(":=") for each in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(
    LaunchDescription(
        [
            ExecuteProcess(cmd=["sleep", "300"]),
            IncludeLaunchDescription(source, launch_arguments=arguments),
        ]
    )
)
sys.exit(service.run())
"""
STAND_IN = """#!/bin/sh
echo "asked: $*"
[ "$2" = play ] || exit 0
exec {python} -m vlm_perception.rosgraph.bag_player "$3" --clock 100 --delay 6
"""

SERVER = """#!{python}
import os, sys
print("asked:", *sys.argv[1:], "offline:", os.environ.get("HF_HUB_OFFLINE"), file=sys.stderr)
os.chdir({folder!r})
os.environ["HF_HOME"] = os.environ["TMPDIR"] = {home!r}
os.makedirs({home!r} + "/hub", exist_ok=True)
host_and_port = sys.argv[sys.argv.index("--host") :][:4]
os.execv({command[0]!r}, [*{command!r}, *host_and_port])
"""


class Launch:
    """One launch in a session of its own, beside a process of somebody else's."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self._output = folder / "said.txt"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "ROS_DOMAIN_ID": str(DOMAIN),
            "ROS_LOG_DIR": str(folder),
            "TMPDIR": str(self.temporary),
        }
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(ROOT / "launch" / name), *arguments],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until something was said so often; what the pattern's group holds, each time."""
        deadline = time.monotonic() + 60
        while len(found := re.findall(pattern, self.said)) < count:
            assert time.monotonic() < deadline and self._process.poll() is None, self.said
            time.sleep(0.1)
        return found

    @property
    def pid(self) -> int:
        return self._process.pid

    def servers(self) -> list[int]:
        """Processes that this launch has started and that are in other sessions than its own."""
        mark = f"ROS_LOG_DIR={self._output.parent}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # It has ended since, or is another user's.
                ours = mark in (folder / "environ").read_bytes().split(b"\0")
                if ours and os.getsid(int(folder.name)) != self.pid:
                    found.append(int(folder.name))
        return found

    def interrupt(self) -> int:
        # Like Ctrl-C in a terminal.
        os.killpg(self._process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and that it leaves no process and no temporary file behind."""
        code = self._process.wait(timeout=90)
        with pytest.raises(ProcessLookupError):
            os.killpg(self._process.pid, 0)
        assert not self.servers()
        assert not [*self.temporary.iterdir()]
        return code

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[list[Launch]]:
    launches: list[Launch] = []
    yield launches
    for launch in launches:
        launch.close()


def test_a_bag_is_played_to_the_nodes_and_its_end_ends_them(
    tmp_path: Path, launched: list[Launch]
) -> None:
    ros2 = tmp_path / "ros2"
    ros2.write_text(STAND_IN.format(python=sys.executable))
    ros2.chmod(0o755)
    bag = f"bag:={ROOT / 'test/data/drive'}"
    launch = Launch(
        tmp_path, "replay.launch.py", bag, "image:=/camera/image_raw", "delay:=6", "loop:=False"
    )
    launched.append(launch)
    assert launch.wait() == 0, launch.said
    assert "--clock 100 --rate 1.0 --remap /embedding:=/recorded/embedding" in launch.said
    assert "--delay 6" in launch.said
    for node in ("vision_encoder", "language_reasoner", "scene_fusion"):
        # /clock runs during the delay and jumps back to the first image.
        assert launch.said.count(f"[{node}]: the ROS clock went back by") == 1, launch.said
    assert launch.said.count("process has finished cleanly") == 4, launch.said


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("demo.launch.py", "rate_hz:=abc"),
        ("demo.launch.py", "params_file:=foreign.yaml"),
        ("replay.launch.py", "bag:=/nope"),
        ("perception.launch.py", "params_file:=/nope.yaml"),
        ("perception.launch.py", "serve:=/nope"),
    ],
)
def test_a_refused_argument_starts_nothing_and_leaves_nothing(
    tmp_path: Path, launched: list[Launch], name: str, argument: str
) -> None:
    (tmp_path / "foreign.yaml").write_text("planner: {ros__parameters: {bundle: mine}}")
    launch = Launch(tmp_path, name, argument)
    launched.append(launch)
    assert launch.wait() == 1
    assert launch.said.count("process started") == 1, "the neighbour's, which has ended too"
    assert argument in launch.said and "Traceback" not in launch.said


def test_bad_settings_end_a_node_for_good_and_a_kill_does_not(
    tmp_path: Path, launched: list[Launch]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "/**/vision_encoder: {ros__parameters: {threads: 0}}\n"
        "/**/scene_fusion: {ros__parameters: {hazards: [a | b | c=]}}\n"
        "/**/language_reasoner: {ros__parameters: {use_sim_time: true}}\n"
    )
    launch = Launch(tmp_path, "perception.launch.py", f"params_file:={file}")
    launched.append(launch)
    launch.wait_for("not restarted", 2)
    original = file.read_text()
    file.unlink()
    files = {each.read_text() for each in tmp_path.glob("*/parameters_*.yaml")}
    assert original in files and sum("use_sim_time" in each for each in files) == 1
    started = r"\[language_reasoner-\d\]: process started with pid \[(\d+)\]"
    launch.wait_for("bundle roadworld-nano from .* is ready")
    os.kill(int(launch.wait_for(started)[0]), signal.SIGKILL)
    launch.wait_for("bundle roadworld-nano from .* is ready", 2)
    assert launch.interrupt() == 0
    assert launch.said.count("[scene_fusion-3]: process started") == 1
    assert launch.said.count("[vision_encoder-2]: process started") == 1
    assert len(re.findall(started, launch.said)) == 2


def test_the_demo_plays_to_the_topic_that_the_nodes_read(
    tmp_path: Path, launched: list[Launch]
) -> None:
    (tmp_path / "a video").mkdir()
    for index in range(3):
        image = np.full((90, 160, 3), index, np.uint8)
        cv2.imwrite(str(tmp_path / "a video" / f"{index}.png"), image)
    launch = Launch(
        tmp_path, "demo.launch.py", "source:=a video", "image:=camera/image_raw", "rate_hz:=5"
    )
    launched.append(launch)
    with closing(Graph(tmp_path, DOMAIN)) as graph:
        embeddings = graph.listen(VisionEmbedding, "embedding")
        assert launch.wait() == 0
        assert "played 3 images" in launch.said and embeddings.all()


def test_a_demo_without_a_video_fails(tmp_path: Path, launched: list[Launch]) -> None:
    launch = Launch(tmp_path, "demo.launch.py", "source:=/nope.mp4")
    launched.append(launch)
    assert launch.wait() == 1
    assert "'/nope.mp4' does not exist" in launch.said
    assert "the video ended with exit code 2" in launch.said


@pytest.fixture
def edgellm(tmp_path: Path) -> None:
    """A command of that name, which launches find."""
    try:
        command = [str(word) for word in transformers_serve(STUDENT.name, "--device", "cpu")]
    except CannotServeError as error:
        pytest.skip(str(error))
    home, folder = str(tmp_path / "huggingface"), str(STUDENT.parent)
    script = SERVER.format(python=sys.executable, folder=folder, home=home, command=command)
    stand_in = tmp_path / "tensorrt-edgellm-serve"
    stand_in.write_text(script)
    stand_in.chmod(0o755)


@pytest.mark.usefixtures("edgellm")
def test_a_served_model_starts_with_the_nodes_comes_back_and_ends_with_them(
    tmp_path: Path, launched: list[Launch]
) -> None:
    options = "serve_options:=--max-kv-cache-capacity 4096"
    launch = Launch(tmp_path, "demo.launch.py", f"serve:={STUDENT}", options, "loop:=true")
    launched.append(launch)
    with closing(Graph(tmp_path, DOMAIN)) as graph:
        reasonings = graph.listen(SceneReasoning, "reasoning", 10)
        reasonings.wait(lambda each: bool(each.caption), timeout=90)
        assert graph.values("language_reasoner")["engine"].startswith("vlm")
        (server,) = launch.servers()
        os.kill(server, signal.SIGKILL)
        launch.wait_for("ended with SIGKILL and is started again in 1 s")
        wait_until("another server", lambda: launch.servers() not in ([], [server]))
        reasonings.clear()
        reasonings.wait(lambda each: bool(each.caption), timeout=90)
    assert launch.interrupt() == 0
    (asked, *_) = launch.wait_for("asked: (.*)")
    assert "--max-kv-cache-capacity 4096 --host 127.0.0.1 --port " in asked
    assert asked.endswith("--served-model-name vlm offline: 1")
    assert "hangs" not in launch.said, "the server comes after the nodes are configured"
    assert (
        "vlm will take at least" in launch.said and "waiting for the language model" in launch.said
    )


@pytest.mark.usefixtures("edgellm")
def test_a_launch_that_is_killed_leaves_no_server(tmp_path: Path, launched: list[Launch]) -> None:
    launch = Launch(tmp_path, "perception.launch.py", f"serve:={STUDENT}", "composition:=single")
    launched.append(launch)
    launch.wait_for("asked: ")
    assert launch.servers()
    os.kill(launch.pid, signal.SIGKILL)
    wait_until("the end of the server", lambda: not launch.servers())


def test_a_server_that_is_not_installed(tmp_path: Path, launched: list[Launch]) -> None:
    launch = Launch(tmp_path, "perception.launch.py", f"serve:={STUDENT}")
    launched.append(launch)
    assert launch.wait() == 1
    assert "tensorrt-edgellm-serve, which is not installed; run: python3 -m venv" in launch.said
