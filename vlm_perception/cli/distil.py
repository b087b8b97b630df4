# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception distil`: a small model learns from a big one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import plain_errors, with_torch
from vlm_perception.outputs.console import say

app = typer.Typer()


@app.command("distil")
def distil(
    recipe: Annotated[Path, typer.Argument(help="A recipe: one YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; by default out/ and the recipe's name."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Make this part alone: `teacher`, `student`, `language` or `quantization`."
        ),
    ] = None,
) -> None:
    """Distil a big model into a small one, by a recipe; an interrupted run goes on.

    Each section of the recipe is a part: `teacher` stores what the big model says of the images,
    `student` trains a dual encoder on that, `language` a language model that reads its tower, and
    `quantization` trains away what a precision plan costs.

    `vlm-perception distil street.yaml --out out/street`
    """
    with plain_errors():
        run = with_torch("vlm_perception.training.distillation.run")
        for folder in run.distil(recipe, out or Path("out") / recipe.stem, only):
            say(Console(), f"{folder}")
