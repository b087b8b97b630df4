# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A robot's run is replayed on the frames that it worked on, and played to live nodes."""

import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from rich.console import Console
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from support.places import DATA
from support.recordings import CAMERA, START_NS, STEP_NS, image, jpeg, write
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.messages.rosbags import message_types
from vlm_perception.messages.tables import EMBEDDING, REASONING, SCENE
from vlm_perception.replay import run
from vlm_perception.replay.compare.comparable import read_outputs
from vlm_perception.replay.compare.compare import compare
from vlm_perception.replay.compare.tolerances import Tolerances
from vlm_perception.replay.recorded_schedule import read_schedule
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import Span
from vlm_perception.replay.report.scene_log import read_log

DRIVE = DATA / "drive"
DIAGNOSTIC_KINDS = ("KeyValue", "DiagnosticStatus", "DiagnosticArray")
TIMING = ("frames", "status", "key frames")
SLOW = "graphs: {decoder: {run: 15.0}, vision: {run: 40.0}}"


def replay(out, **options):
    options = {"overlay": False, "span": Span(0.0, 4.0), **options}
    assert run.run_replay(run.ReplayOptions(DRIVE, out=out, **options), Console(quiet=True)) == 0


def without(bag, topics, stamps_from_ns, target):
    """A copy of a bag that ends early on some topics."""
    with Reader(bag) as reader, Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as new:
        copies = {
            each.id: new.add_connection(each.topic, each.msgtype, typestore=message_types())
            for each in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            if connection.topic not in topics or time_ns < stamps_from_ns:
                new.write(copies[connection.id], time_ns, data)
    return target


def diagnosed(bag, target, **values):
    """A copy of a bag with what the language node says of itself."""
    types = message_types()
    kinds = {name: types.types[f"diagnostic_msgs/msg/{name}"] for name in DIAGNOSTIC_KINDS}
    pairs = [kinds["KeyValue"](key=key, value=value) for key, value in values.items()]
    stamp = types.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    header = types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    status = kinds["DiagnosticStatus"](
        level=0, name="language_reasoner: pipeline", message="", hardware_id="", values=pairs
    )
    message = kinds["DiagnosticArray"](header=header, status=[status])
    with Reader(bag) as reader, Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as new:
        topic = new.add_connection("/diagnostics", message.__msgtype__, typestore=types)
        new.write(topic, START_NS, types.serialize_cdr(message, message.__msgtype__))
        copies = {
            each.id: new.add_connection(each.topic, each.msgtype, typestore=types)
            for each in reader.connections
        }
        for connection, time_ns, data in reader.messages():
            new.write(copies[connection.id], time_ns, data)
    return target


def test_damaged_results_of_a_robot_are_left_out_and_told(tmp_path):
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for table in (EMBEDDING, REASONING, SCENE):
            kind = table.type_name
            topic = writer.add_connection(kind[-5:], kind, typestore=message_types())
            length = 0 if table is EMBEDDING else 90
            writer.write(topic, START_NS, b"\0\1\0\0" + b"\xff" * length)
    schedule = read_schedule(tmp_path / "bag")
    assert not (schedule.encoded or schedule.ticks or schedule.known)
    assert schedule.losses[0].startswith("3 messages of")
    with pytest.raises(ReplayError, match="contains no scene"):
        read_outputs(tmp_path / "bag")


@pytest.mark.slow
def test_a_replay_on_a_robots_schedule_says_what_the_robot_said(tmp_path):
    slow = tmp_path / "slow.yaml"
    slow.write_text(SLOW)
    replay(tmp_path / "robot", latency=slow)
    robot = read_outputs(tmp_path / "robot")
    end_ns = sorted(robot.frames)[-5]
    cut = without(tmp_path / "robot", ("/embedding", "/scene"), end_ns, tmp_path / "cut")
    replay(tmp_path / "free")
    replay(tmp_path / "scheduled", schedule=cut)
    free, scheduled = (read_outputs(tmp_path / name) for name in ("free", "scheduled"))
    # Another machine reasons on other frames, and so says other things here and there.
    differ = [each for each in compare(robot, free, Tolerances()) if not each.unit]
    assert sum(each.difference for each in differ) > 0.1
    for each in compare(robot, scheduled, Tolerances()):
        assert each.unit == "ms" or each.what in TIMING or each.difference == 0, each.text
    dropped = [each for each in read_log(tmp_path / "scheduled" / run.LOG) if "fault" in each]
    assert {each["fault"] for each in dropped} == {"dropped"}
    assert len(scheduled.frames) + len(dropped) == len(robot.frames) == 40
    assert len(read_schedule(cut).ticks) < len(read_schedule(tmp_path / "free").ticks)


def limit_of(folder):
    """The longest time for a caption that a replay was made with."""
    head = next(iter(read_log(folder / run.LOG)))
    return head["settings"]["reasoner"]["max_caption_s"]


@pytest.mark.slow
def test_an_automatic_caption_limit_is_the_robots_or_by_the_latency_model(tmp_path):
    short, slow = Span(0.0, 0.3), tmp_path / "slow.yaml"
    slow.write_text("graphs: {decoder: {run: 50.0, token: 0.1}}")
    replay(tmp_path / "fast", span=short)
    replay(tmp_path / "robot", span=short, latency=slow)
    assert limit_of(tmp_path / "fast") == 1.0
    # Three times 40 tokens, the first of which comes with the prompt's.
    by_model = limit_of(tmp_path / "robot")
    assert 3 * 40 * 0.0501 < by_model < 3 * 42 * 0.0501
    told = diagnosed(tmp_path / "robot", tmp_path / "told", max_caption_s="7.5")
    assert read_schedule(tmp_path / "robot").max_caption_s is None
    assert read_schedule(told).max_caption_s == 7.5
    for name, bag, limit in (("silent", tmp_path / "robot", by_model), ("told", told, 7.5)):
        replay(tmp_path / f"{name} again", span=short, latency=slow, schedule=bag)
        assert limit_of(tmp_path / f"{name} again") == limit
    given = tmp_path / "given.yaml"
    given.write_text("/**/language_reasoner: {ros__parameters: {max_caption_s: 2.5}}")
    replay(tmp_path / "given", span=short, latency=slow, schedule=told, parameters=given)
    assert limit_of(tmp_path / "given") == 2.5


def test_a_schedule_needs_the_results_of_one_robot(tmp_path):
    bag = write(tmp_path / "bag", [jpeg(0), jpeg(1)])
    told = CliRunner().invoke(app, ["replay", str(bag), "--schedule", str(bag)])
    assert told.exit_code == 2
    assert "has 0 topics of vlm_perception/msg/VisionEmbedding" in told.output


@pytest.mark.slow
def test_the_player_sends_images_and_the_clock_and_begins_again(tmp_path, monkeypatch):
    rclpy = pytest.importorskip("rclpy")
    from rosgraph_msgs.msg import Clock  # noqa: PLC0415
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

    monkeypatch.setenv("ROS_DOMAIN_ID", str(120 + os.getpid() % 40))
    bag = write(tmp_path / "bag", [jpeg(index) for index in range(4)])
    context = rclpy.context.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    images, clocks = [], []
    node.create_subscription(CompressedImage, CAMERA, images.append, 20)
    node.create_subscription(Clock, "/clock", clocks.append, rclpy.qos.qos_profile_sensor_data)
    command = [sys.executable, "-m", "vlm_perception.rosgraph.bag_player", str(bag)]
    command += ["--clock", "200", "--delay", "0.2", "--loop"]
    with subprocess.Popen(command, cwd=tmp_path) as player:
        deadline = time.monotonic() + 20.0
        while len(images) < 10 and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        player.terminate()
    executor.shutdown()
    context.try_shutdown()
    stamps = [each.header.stamp.sec * 10**9 + each.header.stamp.nanosec for each in images]
    start = (stamps[0] - START_NS) // STEP_NS
    expected = [START_NS + (start + index) % 4 * STEP_NS for index in range(10)]
    assert stamps[:10] == expected
    assert bytes(images[0].data) == image(stamps[0], jpeg(start)).data.tobytes()
    times = [each.clock.sec * 10**9 + each.clock.nanosec for each in clocks]
    back = [before - after for before, after in pairwise(times) if after < before]
    assert len(back) >= 2
    assert all(START_NS <= each < START_NS + 10 * STEP_NS for each in times)
