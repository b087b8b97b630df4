# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception distil`: a small model learns from a big one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import plain_errors, refuse, with_torch
from vlm_perception.common.share import share_folder
from vlm_perception.outputs.console import say

app = typer.Typer()


EXAMPLE = "street.yaml"


@app.command("distil")
def distil(
    context: typer.Context,
    recipes: Annotated[
        list[Path] | None, typer.Argument(help="A recipe, one YAML file; or several.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; by default out/ and the recipe's name. Of several "
            "recipes, or with --seeds, each run has a folder in it. [default: out/distillation]"
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Make this part alone: `teacher`, `student`, `language` or `quantization`."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Make so many runs of each recipe, with the seeds from 0 on."),
    ] = None,
    example: Annotated[
        bool,
        typer.Option("--example", help="Print a recipe to start from, whose comments explain it."),
    ] = False,
) -> None:
    """Distil a big model into a small one, by a recipe; an interrupted run goes on.

    Each section of the recipe is a part: `teacher` stores what the big model says of the images,
    `student` trains a dual encoder on that, `language` a language model that reads its tower, and
    `quantization` trains away what a precision plan costs.

    `vlm-perception distil --example > street.yaml`

    `vlm-perception distil street.yaml --out out/street`

    `vlm-perception distil config/distillation/*.yaml --seeds 5 --out out/distillation`
    """
    if example:
        refuse(context, {"recipes", "out", "only", "seeds"}, "has no effect with --example")
        file = share_folder() / "config" / "distillation" / EXAMPLE
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    if not recipes:
        raise typer.BadParameter(
            "name a recipe; `vlm-perception distil --example > street.yaml` writes one to start "
            "from",
            param_hint="RECIPES",
        )
    with plain_errors():
        run = with_torch("vlm_perception.training.distillation.run")
        for file in recipes:
            # Before the first run: a mistake in the last recipe is not found after hours.
            run.read_recipe(file)
        for file, folder, seed in _runs(recipes, out, seeds):
            for part in run.distil(file, folder, only, seed):
                say(Console(), f"{part}")


def _runs(
    recipes: list[Path], out: Path | None, seeds: int | None
) -> Iterator[tuple[Path, Path, int | None]]:
    """Recipe, folder and seed of each run, one seed after the other."""
    if len(recipes) == 1 and seeds is None:
        yield recipes[0], out or Path("out") / recipes[0].stem, None
        return
    place = out or Path("out/distillation")
    for seed in range(seeds) if seeds is not None else (None,):
        for file in recipes:
            folder = place / file.stem
            yield file, folder if seed is None else folder / f"seed-{seed}", seed
