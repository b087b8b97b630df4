# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where the package's own files are, besides its modules: config/, msg/ and models/."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share_folder() -> Path:
    """The folder that holds config/ and msg/: the installed package's, or the repository.

    A ROS workspace is found by AMENT_PREFIX_PATH, a plain `pip install` by its prefix.
    """
    prefixes = [each for each in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if each]
    for prefix in (*prefixes, sys.prefix):
        folder = Path(prefix) / "share" / "vlm_perception"
        if (folder / "msg").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]
