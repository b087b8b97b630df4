# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception roadworld`: images of the road world."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import finite, plain_errors

app = typer.Typer(no_args_is_help=True, help="Render the procedural road world.")


@app.command("clip")
def roadworld_clip(
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Length in seconds.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pixels.")] = 7,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 1280,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 720,
    fps: Annotated[int, typer.Option(min=1, max=240)] = 30,
) -> None:
    """Render a drive through the road world into the cache, once, and print its path."""
    with plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.files.clip")
        path = module.cached_clip(width, height, fps, seconds, seed)
    Console().print(str(path), soft_wrap=True, highlight=False)


@app.command("images")
def roadworld_images(
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 5_000_000,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 1280,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 720,
) -> None:
    """Render scenes into JPEG files for `vlm-perception export --calibration`.

    Also writes answers.jsonl, which `vlm-perception calibrate answers` reads, captions.jsonl and
    objects.jsonl for `vlm-perception evaluate`.

    `vlm-perception roadworld images --out out/calibration`
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.files.images")
        module.write_images(out, count, (width, height), seed)
    Console().print(f"{count} images in {out}", soft_wrap=True, highlight=False)


@app.command("heroes")
def roadworld_heroes(
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    per_class: Annotated[
        int, typer.Option(min=1, max=5000, help="Images of each class of a task.")
    ] = 100,
    training: Annotated[
        int,
        typer.Option(min=0, max=1_000_000, help="Images with captions to train an encoder with."),
    ] = 0,
) -> None:
    """Render the exam of adapted prompts: scenes with one large object, in a folder for each class.

    Eleven tasks, such as paint x vehicle; half of the combinations of words are kept from training.
    Images that are there stay; the same command goes on after an interruption.

    `vlm-perception roadworld heroes --out out/heroes`
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.heroes.exam")
        digest = module.write_exam(out, per_class, training)
    Console().print(f"{out}, classes {digest[:12]}", soft_wrap=True, highlight=False)


@app.command("sheet")
def roadworld_sheet(
    out: Annotated[Path, typer.Option(help="The PNG file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 0,
    columns: Annotated[int, typer.Option(min=1, max=20)] = 4,
    rows: Annotated[int, typer.Option(min=1, max=20)] = 5,
    appearance: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0,
            max=1,
            help="0 to 1: how far streets and cameras may be from the plain ones.",
        ),
    ] = 0.0,
    photographs: Annotated[
        Path | None,
        typer.Option(help="A folder of images for sky, ground and boards; with --appearance."),
    ] = None,
) -> None:
    """Render a contact sheet of scenes.

    `vlm-perception roadworld sheet --out docs/img/roadworld.png`
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.files.sheet")
        looks = importlib.import_module("vlm_perception.datasets.roadworld.appearance")
        wanted = looks.open_appearance(appearance, photographs=photographs)
        path = module.write_sheet(out, seed, columns, rows, appearance=wanted)
    Console().print(str(path), soft_wrap=True, highlight=False)


@app.command("bag")
def roadworld_bag(
    out: Annotated[Path, typer.Option(help="The bag's folder; it must not exist.")],
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Length of the drive in seconds.")
    ] = 10.0,
    repeat: Annotated[
        int, typer.Option(min=1, help="Play the drive N times in a row, for long bags.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same drive.")] = 7,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 320,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 180,
    fps: Annotated[int, typer.Option(min=1, max=240)] = 30,
) -> None:
    """Render a drive into a ROS 2 bag of compressed images, for `replay`.

    `vlm-perception roadworld bag --out out/bag --seconds 60 --repeat 60`
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.files.bag")
        size = (width, height)
        count = module.write_bag(out, size=size, fps=fps, seconds=seconds, seed=seed, repeat=repeat)
    Console().print(f"{count} images in {out}", soft_wrap=True, highlight=False)
