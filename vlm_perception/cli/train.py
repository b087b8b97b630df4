# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception train`: trains models."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import BundleOption, finite, plain_errors, with_torch

app = typer.Typer(no_args_is_help=True, help="Train a model (needs torch).")


@app.command("roadworld-nano")
def train_roadworld_nano(
    out: Annotated[
        Path, typer.Option(help="Folder for rendered scenes (about 11 GB), logs and checkpoints.")
    ] = Path("out/roadworld-nano"),
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the weights and the order of samples.")
    ] = 0,
) -> None:
    """Train the small student of the road world, or continue where an earlier run stopped.

    Runs on a CUDA GPU or, for some hours, on the CPU. The result is a checkpoint directory of
    ordinary Hugging Face models; `vlm-perception export` makes a bundle from it. It is made by a
    recipe of `vlm-perception distil`, config/distillation/roadworld-nano.yaml; other students, and
    a student that goes on learning, are made by recipes of your own.

    `vlm-perception train roadworld-nano --out out/roadworld-nano`

    `vlm-perception export out/roadworld-nano/checkpoint --out models/roadworld-nano`
    """
    with plain_errors():
        module = with_torch("vlm_perception.training.roadworld_nano")
        checkpoint = module.train(out, seed)
    console = Console()
    console.print(f"checkpoint: {checkpoint}", soft_wrap=True, markup=False)
    console.print(
        f"next: vlm-perception export {shlex.quote(str(checkpoint))} --out models/roadworld-nano",
        soft_wrap=True,
        markup=False,
    )


@app.command("captions")
def train_captions(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A dual encoder: a folder, or a model of the hub, ORG/NAME@REVISION."),
    ],
    data: Annotated[Path, typer.Option(help="A curated set; its split `train` is learned from.")],
    out: Annotated[Path, typer.Option(help="Folder for logs, states and the trained checkpoint.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 1000,
    batch: Annotated[
        int, typer.Option(min=2, help="Images of a batch; with fewer than 256 contrast is weak.")
    ] = 256,
    rate: Annotated[
        float, typer.Option(callback=finite, min=1e-6, max=1, help="Highest learning rate.")
    ] = 1e-5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of images.")] = 0,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="Of captions to learn from; may be given again. Without it `en`, and `und`, which "
            "is that of captions that name none."
        ),
    ] = None,
) -> None:
    """Go on training a dual encoder on a curated set, or continue an earlier run.

    Uses the loss that the checkpoint was trained with, CLIP's or SigLIP's, a warm-up and a cosine
    down to 1e-6, on a CUDA GPU if there is one. log.jsonl has the parts of the loss.

    `vlm-perception train captions checkpoints/roadworld-nano --data out/set --out out/street`
    """
    with plain_errors():
        module = with_torch("vlm_perception.training.captions")
        schedule = module.Schedule(steps=steps, batch=batch, peak_rate=rate)
        recipe = module.Recipe(seed, schedule)
        if language:
            recipe = replace(recipe, languages=tuple(language))
        trained = module.train(checkpoint, data, out, recipe)
    console = Console()
    console.print(f"checkpoint: {trained}", soft_wrap=True, markup=False)
    whole = (trained / "bundle.yaml").exists()
    shown = shlex.quote(str(trained if whole else trained / "dual"))
    console.print(
        f"next: vlm-perception export {'' if whole else '--dual '}{shown} --out models/NAME",
        soft_wrap=True,
        markup=False,
    )


@app.command("temporal")
def train_temporal(
    bundle: BundleOption = "roadworld-nano",
    checkpoint: Annotated[
        Path, typer.Option(help="Directory from which the bundle was exported; gets temporal/.")
    ] = Path("checkpoints/roadworld-nano"),
    out: Annotated[
        Path, typer.Option(help="Folder for the vision model's outputs, logs and checkpoints.")
    ] = Path("out/temporal-training"),
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the weights and the order of samples.")
    ] = 0,
) -> None:
    """Train the temporal module of a road-world bundle, or continue an earlier run.

    Runs the bundle's own vision model on drives through the road world, then trains for some
    minutes, on a CUDA GPU if there is one. Export the checkpoint again, with the same options as
    before, to include the module in the bundle; without it the training-free form is used.

    `vlm-perception train temporal --bundle roadworld-nano --checkpoint checkpoints/roadworld-nano`
    """
    with plain_errors():
        module = with_torch("vlm_perception.training.temporal")
        directory = module.train(bundle, checkpoint, out, replace(module.RECIPE, seed=seed))
    console = Console()
    console.print(f"temporal module: {directory}", soft_wrap=True, markup=False)
