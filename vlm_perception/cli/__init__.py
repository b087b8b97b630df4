# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: `vlm-perception <verb>`. Thin: each verb calls one function elsewhere."""

from __future__ import annotations

import typer

from vlm_perception.cli import (
    bench,
    bundle,
    chaos,
    demo,
    deploy,
    evaluate,
    replay,
    roadworld,
    train,
    view,
)

app = typer.Typer(
    name="vlm-perception",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="A camera stream in, a live, typed description of the scene out: on the robot, over ROS 2."
    "\n\nStart with `vlm-perception demo`.",
)
app.add_typer(demo.app)
app.add_typer(replay.app)
app.add_typer(view.app)
app.add_typer(deploy.app)
app.add_typer(bench.app, name="bench")
app.add_typer(chaos.app)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bundle.app, name="bundle")
app.add_typer(roadworld.app, name="roadworld")


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2."""
    app()
