# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception curate`: from recordings and folders to a clean set of images and captions."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import JsonOption, one_of, plain_errors, refuse
from vlm_perception.common.interrupt import INTERRUPTED
from vlm_perception.outputs.console import say

app = typer.Typer(
    no_args_is_help=True,
    help="Make a clean set of images and captions, stage by stage, 00_raw to 04_final.",
)
FolderArgument = Annotated[Path, typer.Argument(help="The folder of the set.")]


@app.command("init")
def curate_init(
    folder: FolderArgument,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Images to begin with: a bag, a video, a harvest, a folder of images, with "
            "captions.jsonl or without, or a tar of WebDataset; repeatable."
        ),
    ] = None,
) -> None:
    """Write a recipe to start from: recipe.yaml, whose comments explain each key.

    `vlm-perception curate init out/set --source out/harvest`
    """
    with plain_errors():
        file = importlib.import_module("vlm_perception.curation.init").init(folder, source or ())
    what = "look at it" if source else "name your sources in it"
    say(Console(), f"{file}: {what}, then `vlm-perception curate run {folder}`")


@app.command("run")
def curate_run(
    context: typer.Context,
    folder: FolderArgument,
    to: Annotated[str, typer.Option(help="The last stage to make; all are by default.")] = "",
    redo: Annotated[
        str, typer.Option(help="Make this stage, and those after it, again.", metavar="STAGE")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes at work; more than one need Ray.")
    ] = 1,
    ray_address: Annotated[
        str, typer.Option(help="Address of a Ray cluster that is running, to work there instead.")
    ] = "",
) -> None:
    """Make the stages that are missing; an interrupted run goes on where it was.

    The result is the same, byte for byte, for any number of workers and interruptions.

    `vlm-perception curate run out/set`
    """
    run = importlib.import_module("vlm_perception.curation.run")
    stages = importlib.import_module("vlm_perception.curation.stage_folder").STAGES
    engine = importlib.import_module("vlm_perception.curation.engine").Engine
    for option, value in (("--to", to), ("--redo", redo)):
        if value:
            one_of(option, value, stages)
    if ray_address:
        refuse(context, {"workers"}, "has no effect with --ray-address: the cluster has its own")
    if to and redo and stages.index(redo) > stages.index(to):
        raise typer.BadParameter(f"comes after {to}, the last to make", param_hint="--redo")
    options = run.Options(to or stages[-1], redo or None, engine(workers, ray_address or None))
    console = Console()
    with plain_errors():
        try:
            run.run(folder, options, console)
        except KeyboardInterrupt:
            say(console, "interrupted; the next run goes on here")
            raise typer.Exit(INTERRUPTED) from None


@app.command("calibrate")
def curate_calibrate(
    folder: FolderArgument,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
) -> None:
    """Set the thresholds for the encoders of the recipe, from the images and captions of the set.

    Writes thresholds.json into the folder, which `thresholds: calibrated` and `cosine: calibrated`
    in the recipe refer to, and says what still lacks the stage that it is found from: pairs take
    captions of 02_captioned, copies images of 00_raw.

    `vlm-perception curate run out/set --to 02_captioned`

    `vlm-perception curate calibrate out/set`
    """
    console = Console()
    with plain_errors():
        calibrate = importlib.import_module("vlm_perception.curation.calibration.calibrate")
        for told in calibrate.calibrate(folder, seed):
            say(console, told) if isinstance(told, str) else console.print(told)


@app.command("status")
def curate_status(folder: FolderArgument) -> None:
    """Show which stages are complete, stale or unfinished.

    `vlm-perception curate status out/set`
    """
    console = Console()
    with plain_errors():
        for stage, state in importlib.import_module("vlm_perception.curation.status").status(
            folder
        ):
            say(console, f"{stage}: {state}")


@app.command("report")
def curate_report(folder: FolderArgument, json_file: JsonOption = None) -> None:
    """Write report.html into the folder: figures, and examples of each rule.

    `vlm-perception curate report out/set --json out/set.json`
    """
    console = Console()
    with plain_errors():
        report = importlib.import_module("vlm_perception.curation.report.figures")
        page = importlib.import_module("vlm_perception.curation.report.page")
        figures = report.figures(folder)
        written = page.write_report(folder, figures)
        for line in report.summary(folder):
            say(console, line)
        if figures["dedup"]:
            console.print(
                importlib.import_module("vlm_perception.curation.report.copy_table").shown(
                    figures["dedup"]
                )
            )
        if json_file is not None:
            outputs = importlib.import_module("vlm_perception.outputs.file")
            outputs.write_figures(json_file, figures)
    say(console, str(written))
