# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests with the real lmms-eval, in an environment of its own that sees .venv's packages.

Of lmms-eval's requirements only those are installed that tasks of images need: torchvision, which
it wants, does not fit the CPU build of torch in .venv.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "lmms"
PYTHON = ENVIRONMENT / "bin" / "python"
TESTS = ROOT / "test" / "export" / "test_lmms_eval.py"
ALONE = ("lmms-eval==0.7.3",)
WITH_REQUIREMENTS = (
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "decord==0.6.0",
    "evaluate==0.4.6",
    "loguru==0.7.3",
    "openpyxl==3.1.5",
    "pytz==2026.6",
    "sacrebleu==2.6.0",
    "tenacity==9.2.1",
)


def main() -> None:
    try:
        make_environment()
    except subprocess.CalledProcessError as error:
        sys.exit(f"check-lmms: this command failed: {' '.join(map(str, error.cmd))}")
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", TESTS], check=False).returncode)


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
