# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The demo and the benchmark as a user runs them: real processes, real DDS, a small model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from rosbags.highlevel import AnyReader
from support.checkpoints import make_checkpoint
from support.hub_server import HubServer
from support.ros_graph import wait_until

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.rosgraph.processes import Exit

SECONDS = 3
RATE = 30
LONG = 60
COMMAND = [str(Path(get_package_prefix("vlm_perception")) / "bin" / "vlm-perception")]
NODES = {"video_source", "vision_encoder", "language_reasoner", "scene_fusion"}


def write_video(path: Path, seconds: int) -> Path:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (72, 128, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (640, 360))
    for index in range(seconds * RATE):
        writer.write(cv2.resize(np.roll(texture, index, axis=1), (640, 360)))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "short.avi", SECONDS)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "long.avi", LONG)


class Demo:
    """A running demo, of which the lines are read until it plays."""

    def __init__(self, video: Path, bundle: ModelBundle, out: Path) -> None:
        command = [*COMMAND, "demo", str(video), "--bundle", str(bundle.path), "--out", str(out)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=out.parent,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if " | OK" in line:
                return
        raise AssertionError("the demo ended before it played")

    def nodes(self) -> dict[str, int]:
        """Pids of the nodes that live, by name."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.process.pid) in words and state != "Z":
                modules = [word for word in words if word.startswith("vlm_perception.nodes.")]
                found |= {module.rpartition(".")[2]: int(folder.name) for module in modules}
        return found

    def end(self) -> tuple[int, str]:
        """Exit code and what was printed until then."""
        assert self.process.stdout is not None
        text = self.process.stdout.read()
        return self.process.wait(), text

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def demo(long_video: Path, siglip_bundle: ModelBundle, tmp_path: Path) -> Iterator[Demo]:
    running = Demo(long_video, siglip_bundle, tmp_path / "demo")
    yield running
    running.kill()


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_the_error_of_a_node_is_what_it_logged_as_one() -> None:
    log = "[INFO] [1.0] [a]: begun\n[ERROR] [2.0] [a]: no camera\n[INFO] [3.0] [a]: played 3 images"
    assert Exit("video_source", 2, log).error == "no camera"
    assert Exit("video_source", 2, "cannot start: no such file").error == "no such file"
    assert Exit("video_source", 1, "Traceback\nValueError: odd").error == "ValueError: odd"


@pytest.mark.alone
def test_demo_plays_a_video_to_its_end(
    video: Path, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    done = run(
        "demo", str(video), "--bundle", str(siglip_bundle.path), "--out", "demo", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scene_fusion" in done.stdout

    for bag in (out / "scene.mcap", out):  # Foxglove opens the file, older tools the folder.
        with AnyReader([bag]) as reader:
            counts = {each.topic: each.msgcount for each in reader.connections}
            scenes = [c for c in reader.connections if c.topic == "/scene"]
            captions = {
                reader.deserialize(data, connection.msgtype).caption  # type: ignore[attr-defined]
                for connection, _, data in reader.messages(scenes)
            }
    images = counts["/image/compressed"]
    # The source waits for both its listeners: what is lost is lost to a busy machine.
    assert images >= 0.6 * SECONDS * RATE
    assert counts["/embedding"] >= 0.3 * images
    assert counts["/scene"] >= 0.8 * counts["/embedding"]
    assert counts["/embedding_info"] == 1
    assert counts["/reasoning"] >= SECONDS
    assert counts["/diagnostics"] >= SECONDS
    assert any(captions)
    for node in ("vision_encoder", "scene_fusion"):  # Else the camera seems dead to one of them.
        assert "image_transport: compressed" in (out / "nodes" / f"{node}.yaml").read_text()

    overlay = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) >= images - 1
    assert overlay.read()[1].shape == (360, 640, 3)


@pytest.mark.alone
def test_interrupt_ends_it_within_two_seconds_and_leaves_bag_and_video(demo: Demo) -> None:
    nodes = demo.nodes()
    assert set(nodes) == NODES
    # On a machine that others keep busy everything takes its share longer.
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    started = time.monotonic()
    demo.process.send_signal(signal.SIGINT)
    code, text = demo.end()
    assert time.monotonic() - started < 2 * busy
    assert code == 0, text
    assert not demo.nodes()
    assert "scene.mcap" in text
    assert "overlay.mp4" in text


@pytest.mark.alone
def test_of_a_killed_demo_the_recording_is_kept_and_no_node(
    demo: Demo, long_video: Path, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    assert set(demo.nodes()) == NODES
    (recording,) = (tmp_path / "demo").rglob("*.mcap")

    def has_scenes() -> bool:
        return bool(recording.stat().st_size) and any(Bag(recording).messages(["/scene"]))

    wait_until("a scene that is kept", has_scenes)
    demo.kill()
    deadline = time.monotonic() + 2
    while demo.nodes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not demo.nodes()

    arguments = ["--bundle", str(siglip_bundle.path), "--out", "demo", "--seconds", "1"]
    again = run("demo", str(long_video), *arguments, cwd=tmp_path)
    (kept,) = (tmp_path / "demo").glob("scene.interrupted-*.mcap")
    assert f"interrupted demo left a recording: demo/{kept.name}" in again.stdout
    assert any(Bag(kept).messages(["/scene"]))


@pytest.mark.alone
def test_node_that_dies_is_reported(demo: Demo) -> None:
    os.kill(demo.nodes()["language_reasoner"], signal.SIGKILL)
    code, text = demo.end()
    assert code == 1
    assert "language_reasoner was killed by signal 9" in text
    assert not demo.nodes()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.mp4", None, "does not exist"),
        ("broken.mp4", b"no video" * 100, "is not a video but text"),
        ("99", None, "/dev/video99 has no camera"),
        ("folder/", None, "contains no images"),
    ],
)
def test_unplayable_video_ends_with_a_sentence(
    name: str, content: bytes | None, sentence: str, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("demo", name, "--bundle", str(siglip_bundle.path), cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_road_world_is_rendered_into_an_empty_cache(tmp_path: Path) -> None:
    command = [*COMMAND, "roadworld", "clip", "--width", "64", "--height", "36", "--seconds", "0.5"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    printed = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True, timeout=60)
    clip = Path(printed.strip())
    assert clip.is_relative_to(tmp_path)
    assert cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FRAME_COUNT) == 15


@pytest.mark.alone
def test_bench_graph_writes_the_fixed_keys(
    video: Path, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    arguments = ["--video", str(video), "--bundle", str(siglip_bundle.path)]
    done = run(
        "bench", "graph", *arguments, "--seconds", "4", "--force-keyframes", "--json", "graph.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "graph.json").read_text())
    assert 0.5 < figures["encoded_share"] <= 1
    assert figures["analyses_hz"] == pytest.approx(figures["language_hz"])
    assert figures["full_analysis_ms"] > 0
    assert 5 < figures["scene_hz"] < 1.1 * RATE
    for chain in ("capture_to_embedding_ms", "capture_to_scene_ms"):
        assert 0 < figures[chain]["p50"] <= figures[chain]["p95"] <= figures[chain]["p99"]
    assert figures["capture_to_embedding_ms"]["p50"] <= figures["capture_to_scene_ms"]["p50"]
    assert set(figures["rss_mb"]) == set(figures["cpu_percent"]) == NODES
    assert all(percent > 0 for percent in figures["cpu_percent"].values())


@pytest.mark.parametrize("model", ["siglip2-base", "smolvlm2-256m"])
def test_demo_of_a_published_model_fetches_and_exports_once(
    video: Path, tmp_path: Path, model: str
) -> None:
    # The prompts of a street's labels are long.
    checkpoint = make_checkpoint(tmp_path / "nano", language=None, text_length=64)
    hub, nodes = HubServer(), {"scene_fusion", "vision_encoder", "video_source"}
    hub.add("google/siglip2-base-patch16-224", checkpoint / "dual")
    if model == "smolvlm2-256m":
        nodes.add("language_reasoner")
        other = make_checkpoint(tmp_path / "other", language="smolvlm", seed=1)
        hub.add("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", other / "vlm")
    places = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hub"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = ("demo", str(video), "--model", model, "--seconds", "1")
    first = run(*command, cwd=tmp_path, **places)
    hub.close()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "fetched and exported, once" in first.stdout
    folder = tmp_path / "out" / "demo" / "nodes"
    logs = {path.stem: path.read_text() for path in folder.glob("*.log")}
    assert set(logs) == nodes
    # Of the hazards of all places those of a street are named.
    assert ": motorcycle, red traffic light, person, child, " in logs["scene_fusion"]
    assert "forklift" not in logs["scene_fusion"]
    again = run(*command, cwd=tmp_path, **places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "fetched" not in again.stdout


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("siglip2-bsae", "give siglip2-base or"),
        (".", "is a folder"),
        ("lab/none", "no model lab/no"),
    ],
)
def test_demo_of_a_model_that_is_not_to_be_had(
    video: Path, tmp_path: Path, model: str, words: str
) -> None:
    hub = HubServer()
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hub")}
    refused = run("demo", str(video), "--model", model, cwd=tmp_path, **places)
    hub.close()
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert words in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
