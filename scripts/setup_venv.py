# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes .venv: ROS 2 from PyPI, the Python dependencies and this package, installed.

Run again, it does only what is needed: pip when the requirements changed, cmake always, which
rebuilds the messages that changed and copies the sources that changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import IO

Command = Sequence["str | Path"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BUILD = ROOT / "build" / "venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = VENV / "constraints.txt"

# Python calls this at each start. The libraries of the messages are found through the environment.
BOOTSTRAP = '''\
"""Lets this venv's Python find ROS packages and libraries that are installed in the venv."""
import os
import sys


def _with(variable, entry):
    entries = [e for e in os.environ.get(variable, "").split(os.pathsep) if e]
    if entry in entries:
        return False
    os.environ[variable] = os.pathsep.join([entry, *entries])
    return True


_with("AMENT_PREFIX_PATH", sys.prefix)
if _with("LD_LIBRARY_PATH", os.path.join(sys.prefix, "lib")):
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
'''


class SetupError(Exception):
    """Something is missing that only the user can install."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="with the linters and pytest")
    parser.add_argument("--train", action="store_true", help="with torch and transformers")
    arguments = parser.parse_args()
    try:
        sourced = find_ros()
        make_venv(sourced)
        install_requirements(sourced, dev=arguments.dev, train=arguments.train)
        install_package(sourced)
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"setup: this command failed: {' '.join(map(str, error.cmd))}")


def find_ros() -> str:
    """Returns the name of the ROS 2 distribution that is sourced; empty: take it from PyPI."""
    if sys.version_info < (3, 10):  # noqa: UP036 - whatever python3 is starts this script
        raise SetupError("Python 3.10 or newer is needed; name one with make PYTHON=python3.12")
    distro = os.environ.get("ROS_DISTRO", "")
    if distro and find_spec("cv2") is None:
        raise SetupError("OpenCV is missing: sudo apt install python3-opencv")
    if distro:
        return distro
    machine = f"{platform.system()} on {platform.machine()}"
    if machine != "Linux on x86_64" or sys.version_info >= (3, 14):
        raise SetupError(
            f"PyPI has no ROS 2 wheels for {machine} with Python {platform.python_version()}: "
            "install ROS 2 (Humble, Jazzy or Kilted, docs.ros.org) and source its setup.bash, "
            "or on x86-64 name a Python from 3.10 to 3.13 with make PYTHON=..."
        )
    return ""


def make_venv(sourced: str) -> None:
    """Creates the venv unless it is there and was made for the same ROS and Python."""
    origin = f"{sourced or 'PyPI'} {platform.python_version()} {VENV}"
    stamp = VENV / "origin"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == origin:
        return
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise SetupError(f"{include}/Python.h is missing: sudo apt install python3-dev")
    if find_spec("ensurepip") is None:
        raise SetupError("Python's venv module is missing: sudo apt install python3-venv")
    if shutil.which("c++") is None:
        raise SetupError("a C++ compiler is missing: sudo apt install g++")
    print("setup: creating .venv")
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", *(["--system-site-packages"] if sourced else []), VENV])
    for name, text in (
        ("vlm_perception_bootstrap.py", BOOTSTRAP),
        ("vlm_perception_bootstrap.pth", "import vlm_perception_bootstrap\n"),
    ):
        (site_packages() / name).write_text(text)
    stamp.write_text(origin)


def install_requirements(sourced: str, *, dev: bool, train: bool) -> None:
    """Runs pip for each group of requirements that changed since it was installed."""
    known = read_requirements(sourced)
    constraints = read_constraints(sourced)
    CONSTRAINTS.write_text(constraints)
    groups = ["runtime", "served"] + ["ros"] * (not sourced) + ["dev"] * dev + ["train"] * train
    for group in groups:
        stamp = VENV / f"requirements-{group}"
        wanted = "\n".join([*known[group], constraints])
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"setup: installing the {group} requirements")
        if group == "train":
            install_torch(next(r for r in known[group] if r.startswith("torch==")))
        pip("install", *known[group])
        stamp.write_text(wanted)
    if not sourced:
        correct_exports()


def read_constraints(sourced: str) -> str:
    """Returns the pinned versions, without those that a ROS installation settles."""
    pinned = (ROOT / "constraints.txt").read_text()
    # cv_bridge and the messages of Humble, Jazzy and Kilted are built for apt's numpy.
    return pinned + ("numpy<2\n" if sourced else (ROOT / "constraints-no-ros.txt").read_text())


def read_requirements(sourced: str) -> dict[str, list[str]]:
    """Returns the requirements of pyproject.toml by group."""
    code = (
        "import json, sys\n"
        "try: import tomllib\n"
        "except ImportError: from pip._vendor import tomli as tomllib\n"
        "print(json.dumps(tomllib.load(open(sys.argv[1], 'rb'))['project']))"
    )
    project = json.loads(output([PYTHON, "-c", code, ROOT / "pyproject.toml"]))
    runtime: list[str] = project["dependencies"]
    if sourced:
        runtime = [r for r in runtime if not r.startswith("opencv")]
    elif not (find_library("GL") and find_library("glib-2.0")):
        # The usual wheel wants the libraries of a desktop, for windows that are never opened here.
        runtime = [re.sub("^opencv-python", "opencv-python-headless", r) for r in runtime]
    return {"runtime": runtime, **project["optional-dependencies"]}


def install_torch(torch: str) -> None:
    """Installs the CPU build of torch; the usual one for x86-64 brings gigabytes of CUDA."""
    try:
        pip("install", f"{torch}+cpu", quiet=True)
    except subprocess.CalledProcessError:
        # uv knows by itself where the CPU builds are; pip's configured sources have none.
        pip("install", "uv")
        uv = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON]
        run([*uv, "--constraint", CONSTRAINTS, "--torch-backend", "cpu", torch])


def correct_exports() -> None:
    """Points the CMake files of the ROS wheels at this machine's headers, not the build host's."""
    numpy_include = output([PYTHON, "-c", "import numpy; print(numpy.get_include())"])
    python_include = sysconfig.get_path("include")
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text()
        if "/opt/python/" in text:
            text = re.sub(
                r"/opt/python/[^/;\"]+/lib/[^;\"]+/numpy/_core/include", numpy_include, text
            )
            text = re.sub(r"/opt/python/[^/;\"]+/include/python3\.\d+", python_include, text)
            file.write_text(text)


def install_package(sourced: str) -> None:
    """Builds the messages and installs them with the sources, launch files and models."""
    cmake = "cmake" if sourced else str(VENV / "bin" / "cmake")
    log = BUILD.parent / "setup.log"
    log.parent.mkdir(exist_ok=True)
    stamp = BUILD / "built"
    wanted = build_inputs()
    try:
        with log.open("w") as stream:
            if not stamp.exists() or stamp.read_text() != wanted:
                build(cmake, stream, sourced)
                stamp.write_text(wanted)
            run([cmake, "--install", BUILD], stdout=stream, stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError:
        print("".join(log.read_text().splitlines(keepends=True)[-30:]), file=sys.stderr)
        raise
    remove_stale_sources()


def build_inputs() -> str:
    """Returns what the build depends on: a digest of the interfaces and of the build files."""
    digest = hashlib.sha256(CONSTRAINTS.read_bytes())
    digest.update(b"models" if (ROOT / "models").exists() else b"")
    for folder in ("msg", "srv", "action", "cmake"):
        for file in sorted((ROOT / folder).iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
    for name in ("CMakeLists.txt", "package.xml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def build(cmake: str, log: IO[str], sourced: str) -> None:
    """Configures and builds with cmake against the sourced ROS, or that in the venv."""
    print("setup: building the messages")
    prefixes = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH")
    environment = {**os.environ, **({} if sourced else dict.fromkeys(prefixes, str(VENV)))}
    options = {
        "CMAKE_INSTALL_PREFIX": VENV,
        "Python3_EXECUTABLE": PYTHON,
        "BUILD_TESTING": "OFF",
    }
    define = [f"-D{name}={value}" for name, value in options.items()]
    parallel = ["--parallel", str(os.cpu_count() or 1)]
    for step in (["-S", ROOT, "-B", BUILD, *define], ["--build", BUILD, *parallel]):
        run([cmake, *step], environment=environment, stdout=log, stderr=subprocess.STDOUT)


def remove_stale_sources() -> None:
    """Removes installed sources whose origin is gone; cmake --install only ever adds."""
    installed = site_packages() / "vlm_perception"
    for file in installed.rglob("*.py"):
        path = file.relative_to(installed)
        generated = path.parts[0] in {"msg", "srv", "action"}
        if not generated and not (ROOT / "vlm_perception" / path).exists():
            file.unlink()


def site_packages() -> Path:
    return Path(output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))


def pip(command: str, *arguments: str, quiet: bool = False) -> None:
    run(
        [PYTHON, "-m", "pip", command, "--quiet", "--constraint", CONSTRAINTS, *arguments],
        stderr=subprocess.DEVNULL if quiet else None,
    )


def output(command: Command) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def run(
    command: Command,
    environment: dict[str, str] | None = None,
    stdout: IO[str] | None = None,
    stderr: int | None = None,
) -> None:
    subprocess.run(command, check=True, env=environment, stdout=stdout, stderr=stderr)


if __name__ == "__main__":
    main()
