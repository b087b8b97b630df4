# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the verbs share: options, and errors of one sentence."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from vlm_perception.common.errors import RunError, VlmPerceptionError
from vlm_perception.outputs.console import say

BAD_INPUT = 2
FAILED = 1
LARGEST = 1e9
"""Largest number that any option accepts, such as a number of seconds."""

BundleOption = Annotated[
    str, typer.Option(help="The model: a bundle's name (`roadworld-nano`) or its directory.")
]
BundleArgument = Annotated[str, typer.Argument(help="The bundle's name or its directory.")]


def _spared(file: Path | None) -> Path | None:
    """Refuse, before anything is measured, to replace a file that this program has not written."""
    if file is not None:
        outputs = importlib.import_module("vlm_perception.outputs.file")
        with plain_errors():
            outputs.require_free(file, outputs.FIGURES)
    return file


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", callback=_spared, help="Also write the figures to this file."),
]
SkipBrokenOption = Annotated[
    bool,
    typer.Option(
        "--skip-broken",
        help="Leave out the images that are missing or broken, and say which; else they are an "
        "error.",
    ),
]
TransportOption = Annotated[
    str, typer.Option(help="Transport of images between the processes: `compressed` or `raw`.")
]


def finite(value: float | list[float] | None) -> float | list[float] | None:
    """Refuse NaN, infinity and numbers that overflow, which pass unless a bound excludes them.

    Raises:
        typer.BadParameter: there is one.
    """
    for number in value if isinstance(value, list) else [value]:
        if number is not None and not abs(number) <= LARGEST:  # false for NaN, too
            raise typer.BadParameter(f"{number:g} is not a number up to {LARGEST:g}")
    return value


def renamed(old: str, new: str) -> None:
    """Print that a verb or an option has another name now; the old one works for one release."""
    say(
        Console(stderr=True), f"note: {old} is now {new}; the old name works until the next release"
    )


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the choices.

    Raises:
        typer.BadParameter: it is not.
    """
    if value not in choices:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)


def refuse(context: typer.Context, names: set[str], why: str) -> None:
    """Refuse options that were given on the command line and would have no effect.

    Args:
        context: of the verb.
        names: of its parameters.
        why: goes behind the option in the sentence.

    Raises:
        typer.BadParameter: there is one.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(why, param_hint=parameter.opts[0])


def require_one_source(context: typer.Context, data: Path | None) -> None:
    """Refuse options of the road world with a folder, and those of a folder without one.

    Raises:
        typer.BadParameter: there is one.
    """
    if data is not None:
        refuse(context, {"scenes"}, "is of the road world; leave it out with --data")
    else:
        refuse(context, {"skip_broken", "wording"}, "is for --data")


def require_portable(engine: str) -> None:
    """Refuse an engine that needs plans, which were built for one machine.

    Raises:
        typer.BadParameter: it does, or there is no such engine.
    """
    registry = importlib.import_module("vlm_perception.engines.registry")
    one_of("--engine", engine, tuple(backend.name for backend in registry.with_graphs()))


def with_torch(module: str) -> Any:
    """Import a module that needs torch or another package of the extra `train`.

    Raises:
        MissingExtraError: torch, transformers, onnx or scikit-learn is not installed.
    """
    return with_extra(
        module,
        "`python3 scripts/setup_venv.py --train` in the repository installs it, and so does `pip "
        "install '.[train]'` there",
    )


def with_extra(module: str, remedy: str) -> Any:
    """Import a module that needs packages of an extra.

    Args:
        module: the module of this package.
        remedy: what installs them, as the end of a sentence.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "vlm_perception":
            raise
        raise MissingExtraError(
            f"this needs {error.name}, which is not installed on robots: {remedy}"
        ) from error


def with_library(module: str, library: str, package: str) -> Any:
    """Import a module that needs a library that no other part of the package needs.

    Args:
        module: the module of this package.
        library: the library that it imports.
        package: the name of the library for pip.

    Raises:
        MissingExtraError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise MissingExtraError(
            f"this needs {library}, which is not installed on robots: `pip install {package}`"
        ) from error


def report(module: str, json_file: Path | None, *arguments: Any, **options: Any) -> NoReturn:
    """Let an evaluation or a benchmark run, show its report and end with the report's exit code.

    Args:
        module: its `run` gives a Report.
        json_file: takes the figures, too.
        arguments: of `run`.
        options: of `run`.

    Raises:
        typer.Exit: always.
    """
    with plain_errors():
        code = with_torch(module).run(*arguments, **options).show(Console(), json_file)
    raise typer.Exit(code)


class MissingExtraError(VlmPerceptionError):
    """A library that only some verbs need is not installed."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with one sentence: exit code 2 for bad input, 1 for a failure while running.

    Any other exception is a programming error: it keeps its trace, and Python ends with 1.
    """
    try:
        yield
    except RunError as error:
        tell_error(str(error))
        raise typer.Exit(FAILED) from error
    except VlmPerceptionError as error:
        tell_error(str(error))
        raise typer.Exit(BAD_INPUT) from error
    # The machine refuses, or a process of a pool was killed.
    except (OSError, BrokenExecutor) as error:
        tell_error(str(error))
        raise typer.Exit(FAILED) from error


def tell_error(sentence: str) -> None:
    """Print what is wrong to standard error."""
    say(Console(stderr=True), f"error: {sentence}", "red")
