# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a type stub of a compiled module: `python type_stubs.py MODULE FILE`."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def main() -> None:
    # What the module refers to and no call needs may be missing.
    sys.setdlopenflags(os.RTLD_LAZY)
    name, path = sys.argv[1:]
    Path(path).write_text(stub_of(name), encoding="utf-8")


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
                raise ValueError(f"{stub}:{error.lineno} is no Python: {lines[index]}") from error
            anything = "*args: typing.Any, **kwargs: typing.Any"
            lines[index] = f"{found[1]}def {found[2]}(self, {anything}) -> typing.Any:"
        else:
            break
    stub.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
