# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the TensorRT code against the real Python APIs of three versions of TensorRT.

The bindings are on PyPI, the libraries behind them are not needed: with empty ones the bindings can
be imported on any machine, with NVIDIA's own classes, enumerations and signatures. Type stubs made
of them let mypy check every call, and the modules are imported against them. The same is done for
pycuda, which is compiled against CUDA's headers, and for cuda-python. This checks names, arguments
and types. It runs nothing on a GPU.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "tensorrt"
# JetPack 6; JetPack 7; discrete GPUs.
VERSIONS = ("10.3.0", "10.13.3.9", "11.4.0.106")
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
# Uses what TensorRT 11 removed: the check itself is checked with it.
PROBE = """\
import tensorrt as trt

def configure(config: trt.IBuilderConfig) -> None:
    config.set_flag(trt.BuilderFlag.FP16)
"""
PROBE_FAILS_FROM = 11
KNOWS_TENSORRT = r"^(import|from) (tensorrt|pycuda|vlm_perception\.engines\.(tensorrt|cuda)) ?"
# A node asks another process to load a plan. Without a driver the real runtime crashes there.
FOREIGN_PLANS = """\
import sys
from pathlib import Path
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.plan_check import require_loadable
code = (
    "import sys, tensorrt; runtime = tensorrt.Runtime(tensorrt.Logger()); "
    "sys.exit(runtime.deserialize_cuda_engine(open(sys.argv[1], 'rb').read()) is None)"
)
for path in sys.argv[1:]:
    try:
        require_loadable(Path(path), [sys.executable, "-c", code])
    except EngineError as error:
        print(error)
    else:
        sys.exit(f"{path} was taken for a plan")
"""
LAZY = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); "


class CheckError(Exception):
    """The check found an error, or could not be made."""


def main() -> None:
    try:
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise CheckError("the bindings of TensorRT 10.3 are on PyPI for x86-64 Linux only")
        if shutil.which("gcc") is None:
            raise CheckError("a C compiler is missing: sudo apt install gcc g++")
        check()
    except CheckError as error:
        sys.exit(f"check-tensorrt: {error}")


def check() -> None:
    """Makes what is missing, then checks each version.

    Raises:
        CheckError: mypy or Python found an error.
    """
    cuda = cuda_python()
    pycuda = build_pycuda()
    modules = list(our_modules())
    failed = []
    for version in VERSIONS:
        bindings = tensorrt_bindings(version)
        libraries = empty_libraries(version.split(".")[0])
        found = mypy_errors(bindings, cuda, pycuda, modules)
        found += import_errors(
            modules,
            [bindings / "packages", cuda / "packages", pycuda / "packages"],
            [libraries, pycuda / "libcuda"],
        )
        seeded = [error for error in found if "probe.py" in error]
        expected = int(version.split(".")[0]) >= PROBE_FAILS_FROM
        if bool(seeded) != expected:
            failed.append(f"{version}: the seeded use of BuilderFlag.FP16 gave {seeded}")
        ours = [error for error in found if error not in seeded]
        failed += [f"{version}: {error}" for error in ours]
        note = f"; the seeded error is found: {seeded[0].split('error: ')[-1]}" if seeded else ""
        print(f"TensorRT {version}: {len(modules)} modules, {len(ours)} errors{note}")
    refuse_foreign_plans()
    if failed:
        raise CheckError("\n" + "\n".join(failed))


def refuse_foreign_plans() -> None:
    """Gives files that are no plans to the real lean runtime, in the way that a node does.

    Raises:
        CheckError: one is taken, or the asking process ends with its child.
    """
    target = WORK / "lean"
    if not done(target):
        for requirement in LEAN:
            unpack(download(requirement), target / "packages")
        packages = target / "packages"
        (packages / "tensorrt_lean_bindings").rename(packages / "tensorrt")
        finish(target)
    contents = {
        "garbage.plan": random.Random(0).randbytes(300_000),
        "empty.plan": b"",
        "text.plan": b"this is no plan\n" * 100,
    }
    for name, content in contents.items():
        (target / name).write_bytes(content)
    command: list[str | Path] = [sys.executable, "-c", FOREIGN_PLANS]
    said = run(
        [*command, *(target / name for name in contents)],
        search(PYTHONPATH=[target / "packages", ROOT]),
    )
    print(f"lean runtime, {len(contents)} files that are no plans: {said.splitlines()[0]}")


def our_modules() -> Iterator[str]:
    """Yields the modules that know TensorRT or CUDA."""
    for file in sorted((ROOT / "vlm_perception").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if re.search(KNOWS_TENSORRT, text, re.MULTILINE):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts)


def mypy_errors(bindings: Path, cuda: Path, pycuda: Path, modules: list[str]) -> list[str]:
    """Runs mypy over our modules and the probe, and returns its errors."""
    probe = WORK / "probe" / "probe.py"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text(PROBE)
    config = WORK / "mypy.ini"
    foreign = "follow_imports = silent\nignore_errors = True\n"
    config.write_text(
        "[mypy]\nstrict = True\nignore_missing_imports = True\n"
        + "".join(f"[mypy-{name}.*]\n{foreign}" for name in ("tensorrt", "pycuda", "cuda"))
    )
    paths = [ROOT, probe.parent, *(each / "stubs" for each in (bindings, cuda, pycuda))]
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(config), "--no-error-summary"]
    mypy += ["--cache-dir", str(WORK / "mypy_cache"), "--follow-imports", "silent"]
    mypy += ["--explicit-package-bases"]
    result = subprocess.run(
        [*mypy, *(part for name in ("probe", *modules) for part in ("-m", name))],
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, paths))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode > 1:
        raise CheckError(f"mypy failed: {result.stdout}{result.stderr}")
    return [line for line in result.stdout.splitlines() if ": error: " in line]


def import_errors(modules: list[str], packages: list[Path], libraries: list[Path]) -> list[str]:
    """Imports our modules against the real packages, and returns what goes wrong."""
    environment = search(PYTHONPATH=[*packages, ROOT], LD_LIBRARY_PATH=libraries)
    code = LAZY + "".join(f"import {name}; " for name in modules)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return [f"import: {result.stderr.strip()}"] if result.returncode else []


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


def repair(stub: Path) -> None:
    """Loosens the few signatures that are no Python: a parameter is named `in`, or the like."""
    lines = stub.read_text(encoding="utf-8").split("\n")
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            index = (error.lineno or 1) - 1
            found = re.match(r"( *)def (\w+)\(", lines[index])
            if found is None:
                raise CheckError(f"{stub}:{error.lineno} is no Python: {lines[index]}") from error
            anything = "*args: typing.Any, **kwargs: typing.Any"
            lines[index] = f"{found[1]}def {found[2]}(self, {anything}) -> typing.Any:"
        else:
            break
    stub.write_text("\n".join(lines), encoding="utf-8")


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
    archive = download(f"pycuda=={PYCUDA}")
    shutil.unpack_archive(archive, target / "source", filter="data")
    source = next((target / "source").iterdir())
    include = next((target / "headers").rglob("cuda.h")).parent
    (source / "siteconf.py").write_text(
        f"CUDA_ENABLE_CURAND = False\nCUDA_INC_DIR = [{str(include)!r}]\n"
        f"CUDADRV_LIB_DIR = [{str(target / 'libcuda')!r}]\nCUDADRV_LIBNAME = ['cuda']\n"
        f"CUDA_ROOT = {str(include.parent)!r}\n"
    )
    environment = {**os.environ, "CFLAGS": "-O0 -w", "LDFLAGS": "-Wl,-z,lazy"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "-j2"]
    run(command, environment, cwd=source)
    shutil.copytree(source / "pycuda", target / "packages" / "pycuda")
    environment = search(PYTHONPATH=[target / "packages"], LD_LIBRARY_PATH=[target / "libcuda"])
    write_stub(target / "stubs" / "pycuda", "pycuda._driver", environment, name="driver")
    return finish(target)


def write_stub(folder: Path, module: str, environment: Mapping[str, str], name: str = "") -> None:
    """Writes the stub of one module, which a process of its own imports."""
    folder.mkdir(parents=True)
    package = folder
    while package.name != "stubs":
        (package / "__init__.pyi").touch()
        package = package.parent
    path = folder / f"{name or module.rpartition('.')[2]}.pyi"
    run([sys.executable, "-c", LAZY + STUB_CODE, __file__, module, path], environment)


STUB_CODE = (
    "import importlib.util as u; script, module, path = sys.argv[1:]; "
    "spec = u.spec_from_file_location('check_tensorrt', script); "
    "check = u.module_from_spec(spec); spec.loader.exec_module(check); "
    "open(path, 'w').write(check.stub_of(module))"
)


def stub_of(name: str) -> str:
    """Returns a type stub of a compiled module: names, and the parameters that are known."""
    module = importlib.import_module(name)
    lines = ["from typing import Any"]
    for member, value in vars(module).items():
        if isinstance(value, ModuleType) or (member.startswith("__") and member.endswith("__")):
            continue
        if inspect.isclass(value):
            lines += class_stub(member, value)
        elif callable(value):
            lines.append(f"def {member}({parameters(value)}) -> Any: ...")
        else:
            lines.append(f"{member}: Any")
    return "\n".join(lines) + "\n"


def class_stub(name: str, kind: type) -> Iterator[str]:
    """Yields the lines of one class; each attribute that it has may be read and set."""
    base = "(Exception)" if issubclass(kind, Exception) else ""
    yield f"class {name}{base}:"
    yield "    def __init__(self, *args: Any, **kwargs: Any) -> None: ..."
    for special in ("__call__", "__int__"):
        if special in vars(kind):
            yield f"    {special}: Any"
    for member in dir(kind):
        if not member.startswith("_") and member.isidentifier():
            yield f"    {member}: Any"


def parameters(function: object) -> str:
    """Returns a function's parameters: as Python knows them, else as its documentation begins."""
    try:
        found = list(inspect.signature(function).parameters)  # type: ignore[arg-type]
        return ", ".join(f"{name}: Any" for name in found)
    except (ValueError, TypeError):
        pass
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    headers = [line for line in lines if re.match(r"\w+\(.*\) -> ", line)]
    if len(headers) != 1:
        return "*args: Any, **kwargs: Any"
    required, _, optional = headers[0].partition("[")
    names = re.findall(r"\(\w+\)(\w+)", required)
    with_default = re.findall(r"\(\w+\)(\w+)", optional)
    return ", ".join([*(f"{n}: Any" for n in names), *(f"{n}: Any = ..." for n in with_default)])


def compile_library(path: Path, source: str) -> None:
    """Compiles a shared library whose name is that of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", "-x", "c", "-"]
    run([*command, "-o", path], dict(os.environ), text=source)


def download(requirement: str) -> Path:
    """Downloads one distribution from PyPI, without what it depends on."""
    folder = WORK / "downloads" / requirement
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
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
    parts = [VERSIONS, CUDA_PYTHON, PYCUDA, CUDA_HEADERS, LEAN, LIBRARIES, SYMBOLS]
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


if __name__ == "__main__":
    main()
