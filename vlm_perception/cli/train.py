# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception train`: how a model comes to be."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.common import plain_errors, with_torch

app = typer.Typer(no_args_is_help=True, help="Train a model (needs torch).")


@app.command("roadworld-nano")
def train_roadworld_nano(
    out: Annotated[
        Path, typer.Option(help="Folder for rendered scenes (some 20 GB), logs and checkpoints.")
    ] = Path("out/roadworld-nano"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and of the order.")] = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="Fine-tune this checkpoint directory, in a quarter of the time."),
    ] = None,
    language_only: Annotated[
        bool,
        typer.Option(
            "--language-only",
            help="With --start: teach its language model only; the tags stay as they are.",
        ),
    ] = False,
) -> None:
    """Train the small student of the road world, or go on where an earlier run stopped.

    Runs on a CUDA GPU or, for some hours, on the CPU. The result is a checkpoint directory of
    ordinary Hugging Face models; `vlm-perception export` makes a bundle of it.

    `vlm-perception train roadworld-nano --out out/roadworld-nano`

    `vlm-perception export out/roadworld-nano/checkpoint --out models/roadworld-nano`
    """
    with plain_errors():
        module = with_torch("vlm_perception.training.roadworld_nano")
        if language_only and start is None:
            raise typer.BadParameter(
                "--language-only teaches a student that is there; name its checkpoint with --start"
            )
        recipe = module.RECIPE if start is None else module.FINE_TUNE
        recipe = module.LANGUAGE if language_only else recipe
        checkpoint = module.train(out, replace(recipe, seed=seed, start=start))
    console = Console()
    console.print(f"checkpoint: {checkpoint}", soft_wrap=True, markup=False)
    console.print(
        f"next: vlm-perception export {shlex.quote(str(checkpoint))} --out models/roadworld-nano",
        soft_wrap=True,
        markup=False,
    )
