# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception adapt`: gives a site a vocabulary of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_perception.cli.options.common import BundleOption, JsonOption, report

app = typer.Typer(no_args_is_help=True, help="Give a site a vocabulary of its own.")


@app.callback()
def _adapt() -> None:
    """Keep the verb `classes` a verb while it is the only one."""


@app.command("classes")
def classes(
    labels: Annotated[Path, typer.Option(help="A text file with one label a line.")],
    out: Annotated[Path, typer.Option(help="The vocabulary file to write.")] = Path(
        "site.vocabulary"
    ),
    bundle: BundleOption = "roadworld-nano",
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recordings of the site that set the thresholds, no labels needed: a folder of "
            "images, a bag or a video; repeatable. [default: the bundle's thresholds]"
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Camera topic of the bags, if they have several.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Make a vocabulary file of a list of labels, which vision_encoder takes without a text model.

    Labels that the bundle knows keep its prompts, thresholds and calibration. With `--images` the
    thresholds are set as by `calibrate tags`, and a contact sheet lies beside the file. It needs no
    torch, and runs on the robot, too.

    `vlm-perception adapt classes --bundle models/street --labels labels.txt --out site.vocabulary`

    `ros2 launch vlm_perception perception.launch.py vocabulary:=site.vocabulary`
    """
    report(
        "vlm_perception.evaluation.tags.site_vocabulary",
        json_file,
        bundle,
        labels,
        out,
        images or [],
        topic,
    )
