# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the TensorRT code against the real Python APIs of three versions of TensorRT.

The bindings are on PyPI, the libraries behind them are not needed: with empty ones the bindings can
be imported on any machine, with NVIDIA's own classes, enumerations and signatures. Type stubs made
of them let mypy check every call, and the modules are imported against them. The same is done for
pycuda, which is compiled against CUDA's headers, and for cuda-python; both run all of
engines/tensorrt/cuda.py on a driver whose device is the host's memory. TensorRT's real lean runtime
is given files that are no plans. Nothing runs on a GPU.
"""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tensorrt_packages import (
    ROOT,
    SCRIPTS,
    WORK,
    CheckError,
    build_pycuda,
    cuda_python,
    empty_libraries,
    host_memory_driver,
    lean_runtime,
    run,
    search,
    tensorrt_bindings,
)

# JetPack 6; JetPack 7; discrete GPUs.
VERSIONS = ("10.3.0", "10.13.3.9", "11.4.0.106")
# Uses what TensorRT 11 removed: the check itself is checked with it.
PROBE = """\
import tensorrt as trt

def configure(config: trt.IBuilderConfig) -> None:
    config.set_flag(trt.BuilderFlag.FP16)
"""
PROBE_FAILS_FROM = 11
KNOWS_TENSORRT = r"^(import|from) (tensorrt|pycuda|vlm_perception\.engines\.tensorrt) ?"
# What a node does with a plan that it does not know, in a process of its own.
FOREIGN_PLANS = """\
import sys
from pathlib import Path
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.tensorrt.load_probe import require_loadable
code = (
    "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); "
    "from vlm_perception.engines.tensorrt import load_probe; load_probe.main()"
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
    driver = host_memory_driver(pycuda)
    exercise_cuda(cuda, pycuda, driver)
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
    refuse_foreign_plans(pycuda, driver)
    if failed:
        raise CheckError("\n" + "\n".join(failed))


def exercise_cuda(cuda: Path, pycuda: Path, driver: Path) -> None:
    """Runs engines/tensorrt/cuda.py with the real pycuda, without and with the real cuda-python.

    Raises:
        CheckError: a call fails, copies something else, or memory is not given back.
    """
    for packages in ([pycuda / "packages"], [pycuda / "packages", cuda / "packages"]):
        # pycuda refers to more functions than that driver has.
        code = LAZY + "import exercise_cuda; exercise_cuda.main()"
        said = run(
            [sys.executable, "-W", "error", "-c", code],
            search(PYTHONPATH=[*packages, SCRIPTS, ROOT], LD_PRELOAD=[driver]),
        )
        print(f"on a driver of host memory: {said.strip()}")


def refuse_foreign_plans(pycuda: Path, driver: Path) -> None:
    """Gives files that are no plans to the real lean runtime, in the way that a node does.

    Raises:
        CheckError: one is taken, or the asking process ends with its child.
    """
    packages = lean_runtime() / "packages"
    contents = {
        "garbage.plan": random.Random(0).randbytes(300_000),
        "empty.plan": b"",
        "text.plan": b"this is no plan\n" * 100,
    }
    for name, content in contents.items():
        (WORK / "lean" / name).write_bytes(content)
    said = run(
        [sys.executable, "-c", FOREIGN_PLANS, *(WORK / "lean" / name for name in contents)],
        search(PYTHONPATH=[packages, pycuda / "packages", ROOT], LD_PRELOAD=[driver]),
    )
    refused = [line for line in said.splitlines() if "cannot use the GPU" in line]
    if len(refused) != len(contents):
        raise CheckError(f"the lean runtime's refusal is not understood: {said}")
    print(f"lean runtime, {len(contents)} files that are no plans: {refused[0]}")


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


if __name__ == "__main__":
    main()
