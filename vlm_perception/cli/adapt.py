# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception adapt`: gives a site a vocabulary of its own."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    finite,
    plain_errors,
    refuse,
    with_torch,
)

app = typer.Typer(
    no_args_is_help=True, help="Give a site a vocabulary of its own, by the names of its classes."
)


@app.command("learn")
def learn(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Option(help="A dual encoder: a folder, or a model of the hub, ORG/NAME@REVISION."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Images with classes: a folder with a folder for each class, a curated set whose "
            "sources name objects, or `roadworld`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the prompts, the log and the state.")],
    init: Annotated[
        str, typer.Option(help="Words that the prompts begin as, of 2 to 32 tokens.")
    ] = "a photo of a",
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A hand-written prompt with {label}, which is one view of each class; repeatable: "
            "their mean. [default: a photo of a {label}.]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 32,
    classes: Annotated[
        int, typer.Option(min=4, max=512, help="Classes that a batch compares, if there are more.")
    ] = 64,
    rate: Annotated[
        float, typer.Option(callback=finite, min=1e-6, max=1, help="Highest learning rate.")
    ] = 2e-3,
    contrast: Annotated[
        float,
        typer.Option(callback=finite, min=0, max=1000, help="Weight of the contrast of classes."),
    ] = 1.0,
    matching: Annotated[
        float,
        typer.Option(callback=finite, min=0, max=1000, help="Weight of the gradient matching."),
    ] = 1.0,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of the road world.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of images.")] = 0,
) -> None:
    """Learn soft prompts that adapt to other classes by their names, or go on with an earlier run.

    Self-TPT's first stage: both towers are frozen; the prompts, shared by all classes, learn to
    classify, and to contrast classes in the same direction. Needs torch. Images are encoded once,
    and kept in OUT/work.

    `vlm-perception adapt learn --checkpoint my-model --data photos-by-class --out out/prompts`
    """
    if data != "roadworld":
        refuse(context, {"scenes"}, "is of the road world")
    for wording in template or ():
        if "{label}" not in wording:
            raise typer.BadParameter(f"{wording!r} has no {{label}}", param_hint="--template")
    with plain_errors():
        module = with_torch("vlm_perception.training.adaptation.learn")
        settings = module.LearningSettings(
            init=init,
            steps=steps,
            batch=batch,
            classes=classes,
            rate=rate,
            contrast=contrast,
            matching=matching,
            scenes=scenes,
            seed=seed,
        )
        if template:
            settings = replace(settings, templates=tuple(template))
        made = module.learn(checkpoint, data, out, settings)
    prompts = f"{len(made.context)} prompts from {made.spec.images} images"
    console = Console()
    console.print(f"{prompts} of {made.spec.classes} classes: {out}", soft_wrap=True, markup=False)
    console.print(
        f"next: vlm-perception adapt classes --bundle BUNDLE --prompts {shlex.quote(str(out))} "
        "--labels labels.txt",
        soft_wrap=True,
        markup=False,
    )


@app.command("classes")
def classes(
    context: typer.Context,
    labels: Annotated[Path, typer.Option(help="A text file with one label a line.")],
    out: Annotated[Path, typer.Option(help="The vocabulary file to write.")] = Path(
        "site.vocabulary"
    ),
    bundle: BundleOption = "roadworld-nano",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `adapt learn` for the bundle's checkpoint; the bundle must have been "
            "exported with --adapt. [default: the bundle's hand-written prompts]"
        ),
    ] = None,
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
    steps: Annotated[int, typer.Option(min=0, help="Steps of adaptation.")] = 20,
    rate: Annotated[
        float, typer.Option(callback=finite, min=1e-6, max=1, help="Learning rate.")
    ] = 1e-3,
    at_once: Annotated[
        int, typer.Option(min=4, max=512, help="Labels that a step compares, if there are more.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of labels.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Make a vocabulary file of a list of labels, which vision_encoder takes without a text model.

    With `--prompts` learned prompts are adapted to the labels by their names alone; without it
    labels that the bundle knows keep its prompts, thresholds and calibration. With `--images` the
    thresholds are set as by `calibrate tags`, and a contact sheet lies beside the file. It needs no
    torch, and runs on the robot, too.

    `vlm-perception adapt classes --bundle models/street --labels labels.txt --out site.vocabulary`

    `ros2 launch vlm_perception perception.launch.py vocabulary:=site.vocabulary`
    """
    if prompts is None:
        refuse(context, {"steps", "rate", "at_once", "seed"}, "is for --prompts")
    with plain_errors():
        module = importlib.import_module("vlm_perception.evaluation.tags.site_vocabulary")
        adapted = None
        if prompts is not None:
            settings = module.AdaptationSettings(steps, rate, at_once, seed)
            adapted = module.Prompts(prompts, settings)
        made = module.run(bundle, labels, out, images or [], topic, adapted)
        code = made.show(Console(), json_file)
    raise typer.Exit(code)
