# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file plays a bag to the nodes; our player stands in for `ros2 bag play` (C++)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="comes with a ROS installation, not from PyPI")

ROOT = Path(__file__).parent.parent
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [each.split(":=") for each in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""
STAND_IN = """#!/bin/sh
echo "asked: $*"
[ "$2" = play ] || exit 0
exec {python} -m vlm_perception.demo.bag_player "$3" --clock 100 --delay 6
"""


def test_a_bag_is_played_to_the_nodes_and_its_end_ends_them(tmp_path):
    ros2 = tmp_path / "ros2"
    ros2.write_text(STAND_IN.format(python=sys.executable))
    ros2.chmod(0o755)
    arguments = [f"bag:={ROOT / 'test/data/drive'}", "image:=/camera/image_raw", "delay:=6"]
    ran = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(ROOT / "launch/replay.launch.py"), *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "ROS_DOMAIN_ID": str(60 + os.getpid() % 40),
            "ROS_LOG_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "--clock 100 --rate 1.0 --remap /embedding:=/recorded/embedding" in said
    assert "--delay 6" in said
    for node in ("vision_encoder", "language_reasoner", "scene_fusion"):
        # /clock runs during the delay and jumps back to the first image.
        assert said.count(f"[{node}]: the ROS clock went back by") == 1, said
    assert said.count("process has finished cleanly") == 4, said
