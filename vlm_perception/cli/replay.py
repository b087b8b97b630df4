# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception replay`, and the verbs that use its results."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import finite, one_of, plain_errors, require_portable
from vlm_perception.cli.options.served import KeyFileOption, PlainHttpOption, RemoteOption, reach

app = typer.Typer()


@app.command()
def replay(
    recording: Annotated[
        Path,
        typer.Argument(
            metavar="BAG",
            help="A bag of ROS 2 or ROS 1 (file or folder), a video file or a folder of images.",
        ),
    ],
    topic: Annotated[
        str | None, typer.Option(help="The camera topic; needed if a bag has several cameras.")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="The model: a bundle's name or directory. [default: that of --params]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results. [default: out/replay/NAME]")
    ] = None,
    start: Annotated[
        float,
        typer.Option(callback=finite, min=0, help="Start N seconds after the first image."),
    ] = 0.0,
    duration: Annotated[
        float | None, typer.Option(callback=finite, min=0.001, help="Replay N seconds only.")
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0.01,
            max=100,
            help="Seconds of the bag per second of the robot, as in `ros2 bag play --rate`.",
        ),
    ] = 1.0,
    params: Annotated[
        Path | None,
        typer.Option(help="The nodes' parameters. [default: the package's perception.yaml]"),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Vocabulary file of `adapt classes` with the labels to look for. [default: that "
            "of --params, else the bundle's own labels]"
        ),
    ] = None,
    latency: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with the robot's processing times; `bench replay` writes one."
        ),
    ] = None,
    schedule: Annotated[
        Path | None,
        typer.Option(
            help="A bag of a robot's results for this recording: process exactly the frames that "
            "the robot processed, whatever `--latency` says."
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="The clock for ages: `recording`, or `stamps` if the stamps come from another "
            "clock, such as a simulation. [default: `stamps` if the two differ]"
        ),
    ] = None,
    served: Annotated[
        str | None,
        typer.Option(
            help="With `language: served` in the parameters: `live` asks the server and writes "
            "served.jsonl; the path of such a file answers from it, the same each time."
        ),
    ] = None,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
    engine: Annotated[
        str, typer.Option(help="`onnxruntime` or `openvino`; never chosen by measurement.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the networks.")] = 1,
    originals: Annotated[
        str, typer.Option(help="Topics to copy next to the results: `camera`, `all` or `none`.")
    ] = "camera",
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Also write overlay.mp4.")
    ] = True,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted run.")
    ] = False,
) -> None:
    """Run the whole perception over a recording, without ROS, and report on it.

    The objects of the nodes run on virtual time, so that the same recording, bundle and
    settings give the same scene log, byte for byte. Writes `report.html` (look at this first),
    `scene.jsonl`, the bag `scene.mcap` for `ros2 bag`, rviz and Foxglove, and `overlay.mp4`.
    After Ctrl-C the same command continues where it stopped.

    `vlm-perception replay drive_bag`

    `vlm-perception replay drive.mp4 --start 60 --duration 30`

    Exit code: 0 at the end, 1 when a run failed, 2 when the recording or an option cannot be used,
    3 when part of the recording, or none of its images, could be read, 130 after Ctrl-C.
    """
    require_portable(engine)
    one_of("--originals", originals, ("camera", "all", "none"))
    if time is not None:
        one_of("--time", time, ("stamps", "recording"))
    with plain_errors():
        run = importlib.import_module("vlm_perception.replay.run")
        options = run.ReplayOptions(
            recording=recording,
            topic=topic,
            bundle=bundle,
            vocabulary=vocabulary,
            out=out,
            span=run.Span(start, duration),
            speed=rate,
            engine=run.EngineOptions(engine, threads),
            parameters=params,
            latency=latency,
            time=time,
            schedule=schedule,
            served=served,
            reach=reach(key_file, allow_remote, allow_plain_http),
            originals=originals,
            overlay=overlay,
            fresh=fresh,
        )
        code = run.run_replay(options, Console())
    raise typer.Exit(code)


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", help="A scene log, a replay's folder, or a bag.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another one for the same recording.")
    ],
    tolerances: Annotated[
        Path | None, typer.Option(help="YAML file with the allowed differences.")
    ] = None,
) -> None:
    """Describe what changed between two scene logs: frames, tags, answers, key frames, latency.

    Either side can be a bag that was recorded on a robot (`scene` and `reasoning`). With
    `--tolerances`, the file's keys replace those of the defaults; docs/replay.md lists them.

    `vlm-perception compare out/before/scene.jsonl out/after/scene.jsonl`

    Exit code: 0 within the tolerances, 1 when more has changed, 2 when a file cannot be used.
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.replay.compare.compare")
        code = module.run_compare(first, second, tolerances, Console())
    raise typer.Exit(code)


@app.command()
def harvest(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="BAG...", help="Recordings that `replay` can read.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for images and metadata.jsonl.")] = Path(
        "out/harvest"
    ),
    topic: Annotated[str | None, typer.Option(help="The camera topic.")] = None,
    bundle: Annotated[
        str | None, typer.Option(help="The model: a bundle's name or directory.")
    ] = None,
    below: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0,
            max=1,
            help="Select frames with an answer less likely than this.",
        ),
    ] = 0.5,
    distance: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0,
            max=2,
            help="Leave out a frame nearer than this (cosine) to the previously selected one.",
        ),
    ] = 0.01,
) -> None:
    """Collect the frames of recordings that are worth a second look, with their results.

    Selects key frames caused by drift, tags or a new scene, frames on which the fast and the slow
    path disagree, and those with an uncertain answer. The folder loads as an `imagefolder` of
    Hugging Face datasets, for curation and distillation.

    `vlm-perception harvest monday_bag tuesday_bag --out out/harvest`
    """
    with plain_errors():
        module = importlib.import_module("vlm_perception.replay.harvest")
        options = module.HarvestOptions(tuple(recordings), out, topic, bundle, below, distance)
        count = module.run_harvest(options, Console())
    Console().print(f"{count} images in {out}", soft_wrap=True, highlight=False)
