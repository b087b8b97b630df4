# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Installs the parts that need no ROS with pip; this adds models, settings, message definitions."""

from pathlib import Path

from setuptools import setup

SHARED = [path for folder in ("models", "config", "msg") for path in Path(folder).rglob("*")]

setup(
    data_files=[
        (f"share/vlm_perception/{path.parent}", [str(path)]) for path in SHARED if path.is_file()
    ]
)
