# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of curation with Ray and OpenCV 4, in an environment that sees .venv's packages.

.venv has OpenCV 5, which ships no detectors of faces and number plates, and no Ray.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from vlm_perception.common.machine import cache_directory

TESTS = Path(__file__).resolve().parent.parent / "test" / "curation_full"
ENVIRONMENT = cache_directory() / "check-curation"
PYTHON = ENVIRONMENT / "bin" / "python"
ALONE = ("opencv-python-headless==4.14.0.94",)
WITH_REQUIREMENTS = ("ray[data]==2.60.0",)


def main() -> None:
    try:
        make_environment()
    except subprocess.CalledProcessError as error:
        sys.exit(f"check-curation: this command failed: {' '.join(map(str, error.cmd))}")
    # -P: the installed package is tested, not the sources in the working directory.
    command = [PYTHON, "-P", "-m", "pytest", *sys.argv[1:], TESTS]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def make_environment() -> None:
    """Makes the environment, unless it is there with these packages."""
    stamp = ENVIRONMENT / "made"
    constraints = Path(sys.prefix) / "constraints.txt"
    wanted = "\n".join((sys.prefix, sys.version, *ALONE, *WITH_REQUIREMENTS))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = ENVIRONMENT / "lib" / version / "site-packages"
    (own / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-warn-conflicts"]  # .venv's pip
    subprocess.run([*pip, "--no-deps", *ALONE], check=True)
    subprocess.run([*pip, "--constraint", constraints, *WITH_REQUIREMENTS], check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
