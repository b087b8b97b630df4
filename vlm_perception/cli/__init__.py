# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: `vlm-perception <verb>`. Thin: each verb calls one function elsewhere."""

from __future__ import annotations

import os
import platform
import signal
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from vlm_perception.cli import (
    adapt,
    bench,
    bundle,
    calibrate,
    chaos,
    curate,
    demo,
    deploy,
    distil,
    locate,
    replay,
    roadworld,
    train,
    view,
)
from vlm_perception.cli.evaluate import app as evaluate

app = typer.Typer(
    name="vlm-perception",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Turns a camera stream into a live, typed scene description: on the robot, over ROS 2."
    "\n\nStart with `vlm-perception demo`.",
)
app.add_typer(demo.app)
app.add_typer(replay.app)
app.add_typer(view.app)
app.add_typer(locate.app)
app.add_typer(deploy.app)
app.add_typer(bench.app, name="bench")
app.add_typer(chaos.app)
app.add_typer(train.app, name="train")
app.add_typer(distil.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(calibrate.app, name="calibrate")
app.add_typer(adapt.app, name="adapt")
app.add_typer(bundle.app, name="bundle")
app.add_typer(roadworld.app, name="roadworld")
app.add_typer(curate.app, name="curate")


ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


def _print_version(asked: bool) -> None:
    if asked:
        found = [f"{name} {_installed(name)}" for name in ENGINES if _installed(name)]
        ros = f"ROS {os.environ.get('ROS_DISTRO', 'not sourced')}"
        around = ", ".join([f"Python {platform.python_version()}", ros, *found])
        typer.echo(f"vlm-perception {_installed('vlm_perception')} ({around})")
        raise typer.Exit


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options before the verb."""
    # The program ends at once while it imports; a verb has something to put in order.
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, usual)


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2."""
    try:
        app()
    # An interrupt while typer itself is at work.
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
