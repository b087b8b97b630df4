# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Brings the packages here that the TensorRT code is checked against, and makes type stubs of them.

Of TensorRT only the bindings are on PyPI for all versions; empty libraries let them be imported,
with NVIDIA's own classes, enumerations and signatures. pycuda is compiled against CUDA's headers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from type_stubs import repair

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(__file__).resolve().parent
WORK = ROOT / "build" / "tensorrt"
DRIVER = SCRIPTS / "host_memory_driver.c"
CUDA_PYTHON = ("cuda-bindings==13.0.3", "cuda-pathfinder==1.3.3")
PYCUDA = "2026.1"
CUDA_HEADERS = (
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-profiler-api==13.0.85",
)
LEAN = ("tensorrt-lean-cu13-libs==11.4.0.106", "tensorrt-lean-cu13-bindings==11.4.0.106")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# What the bindings want from the libraries.
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


class CheckError(Exception):
    """The check found an error, or could not be made."""


def tensorrt_bindings(version: str) -> Path:
    """Downloads the bindings and makes type stubs of them."""
    target = WORK / version
    if done(target):
        return target
    requirement = f"tensorrt-cu12-bindings=={version}"
    unpack(download(requirement), target / "wheel")
    shutil.copytree(target / "wheel" / "tensorrt_bindings", target / "packages" / "tensorrt")
    environment = search(
        PYTHONPATH=[target / "packages"],
        LD_LIBRARY_PATH=[empty_libraries(version.split(".", maxsplit=1)[0])],
    )
    stubgen = [sys.executable, "-m", "pybind11_stubgen", "--ignore-all-errors", "-o"]
    run([*stubgen, target / "stubs", "tensorrt"], environment)
    for stub in (target / "stubs").rglob("*.pyi"):
        repair(stub)
    return finish(target)


def empty_libraries(major: str) -> Path:
    """Makes TensorRT's libraries with nothing behind their symbols."""
    target = WORK / f"libraries-{major}"
    if done(target):
        return target
    source = "\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS)
    for name in LIBRARIES:
        compile_library(target / f"lib{name}.so.{major}", source)
    return finish(target)


def cuda_python() -> Path:
    """Downloads cuda-python and makes a type stub of its driver API."""
    target = WORK / "cuda-python"
    if done(target):
        return target
    for requirement in CUDA_PYTHON:
        unpack(download(requirement), target / "packages")
    environment = search(PYTHONPATH=[target / "packages"])
    write_stub(target / "stubs" / "cuda" / "bindings", "cuda.bindings.driver", environment)
    return finish(target)


def build_pycuda() -> Path:
    """Compiles pycuda against CUDA's headers and an empty libcuda, and makes a type stub of it."""
    target = WORK / "pycuda"
    if done(target):
        return target
    compile_library(target / "libcuda" / "libcuda.so.1", "int vlm_perception_empty;")
    (target / "libcuda" / "libcuda.so").symlink_to("libcuda.so.1")
    for requirement in CUDA_HEADERS:
        unpack(download(requirement), target / "headers")
    include = next((target / "headers").rglob("cuda.h")).parent
    archive = download(f"pycuda=={PYCUDA}")
    shutil.unpack_archive(archive, target / "source", filter="data")
    source = next((target / "source").iterdir())
    (source / "siteconf.py").write_text(
        f"CUDA_ENABLE_CURAND = False\nCUDA_INC_DIR = [{str(include)!r}]\n"
        f"CUDADRV_LIB_DIR = [{str(target / 'libcuda')!r}]\nCUDADRV_LIBNAME = ['cuda']\n"
        f"CUDA_ROOT = {str(include.parent)!r}\n"
    )
    flags = "-O0 -g0 -w"
    environment = {
        **os.environ,
        # Older and newer versions of setuptools read one or the other for C++.
        "CFLAGS": flags,
        "CXXFLAGS": flags,
        "LDFLAGS": "-Wl,-z,lazy",
    }
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "-j2"]
    run(command, environment, cwd=source)
    shutil.copytree(source / "pycuda", target / "packages" / "pycuda")
    environment = search(PYTHONPATH=[target / "packages"], LD_LIBRARY_PATH=[target / "libcuda"])
    write_stub(target / "stubs" / "pycuda", "pycuda._driver", environment, name="driver")
    return finish(target)


def host_memory_driver(pycuda: Path) -> Path:
    """Compiles the driver whose device is the host's memory, with the headers of pycuda's part."""
    library = WORK / "driver" / "libcuda.so.1"
    include = next((pycuda / "headers").rglob("cuda.h")).parent
    compile_library(library, DRIVER.read_text(encoding="utf-8"), "-I", str(include))
    return library


def lean_runtime() -> Path:
    """Downloads TensorRT's real lean runtime, and gives its bindings the name of the full ones."""
    target = WORK / "lean"
    if done(target):
        return target
    packages = target / "packages"
    for requirement in LEAN:
        unpack(download(requirement), packages)
    (packages / "tensorrt_lean_bindings").rename(packages / "tensorrt")
    return finish(target)


def write_stub(folder: Path, module: str, environment: Mapping[str, str], name: str = "") -> None:
    """Writes the stub of one module, which a process of its own imports."""
    folder.mkdir(parents=True)
    package = folder
    while package.name != "stubs":
        (package / "__init__.pyi").touch()
        package = package.parent
    path = folder / f"{name or module.rpartition('.')[2]}.pyi"
    run([sys.executable, SCRIPTS / "type_stubs.py", module, path], environment)


def compile_library(path: Path, source: str, *options: str) -> None:
    """Compiles a shared library whose name is that of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", "-x", "c", "-"]
    run([*command, *options, "-o", path], dict(os.environ), text=source)


def download(requirement: str) -> Path:
    """Downloads one distribution from PyPI, without what it depends on."""
    folder = WORK / "downloads" / requirement
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            # Else it would install what pycuda is built with once more, only to ask for its name.
            pip += ["--no-build-isolation"]
            run([*pip, "--dest", temporary, requirement], dict(os.environ))
            Path(temporary).rename(folder)
            Path(temporary).mkdir()
    return next(folder.iterdir())


def unpack(wheel: Path, target: Path) -> None:
    """Unpacks a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def search(**paths: list[Path]) -> dict[str, str]:
    """Returns this process's environment with these in front of its search paths."""
    environment = dict(os.environ)
    for name, first in paths.items():
        set_already = filter(None, environment.get(name, "").split(os.pathsep))
        environment[name] = os.pathsep.join([*map(str, first), *set_already])
    return environment


def done(target: Path) -> bool:
    """Tells whether a part is complete; what is left of another one goes."""
    mark = target / "done"
    if mark.exists() and mark.read_text() == fingerprint():
        return True
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return False


def finish(target: Path) -> Path:
    """Marks a part as complete."""
    (target / "done").write_text(fingerprint())
    return target


def fingerprint() -> str:
    """Returns what the parts depend on: Python, and what they are made of."""
    parts = [CUDA_PYTHON, PYCUDA, CUDA_HEADERS, LEAN, LIBRARIES, SYMBOLS]
    return json.dumps([sys.version, *parts])


def run(
    command: list[str | Path],
    environment: Mapping[str, str],
    cwd: Path | None = None,
    text: str | None = None,
) -> str:
    """Runs a command and returns what it said.

    Raises:
        CheckError: it failed; with what it said.
    """
    result = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise CheckError(f"{' '.join(map(str, command[:6]))} failed:\n{result.stdout[-3000:]}")
    return result.stdout
