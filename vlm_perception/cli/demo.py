# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception demo` and `overlay`, which draws its recordings."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import (
    BundleOption,
    finite,
    plain_errors,
)
from vlm_perception.cli.options.served import (
    ENDPOINT,
    EndpointOption,
    KeyFileOption,
    PlainHttpOption,
    RemoteOption,
    ServedOption,
    served_parameters,
)
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.machine import cache_directory
from vlm_perception.outputs.console import say

app = typer.Typer()


@app.command()
def demo(
    video: Annotated[
        str | None,
        typer.Argument(
            help="A video file, a folder of images, a webcam's index or device, or the address of "
            "a stream such as rtsp://HOST/PATH. [default: the procedural road world, 1280x720 at "
            "30 Hz]"
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            min=1,
            help="End after N seconds. [default: the end of the video; road world: 20]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the bag and the video.")] = Path("out/demo"),
    bundle: BundleOption = "roadworld-nano",
    model: Annotated[
        str | None,
        typer.Option(
            help="In place of --bundle: a published model or pair, by its name in `vlm-perception "
            "models` or a dual encoder's id on the Hugging Face hub. The first time it is fetched "
            "and exported, for the labels of a street (needs torch and transformers)."
        ),
    ] = None,
    served: ServedOption = None,
    endpoint: EndpointOption = ENDPOINT,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
) -> None:
    """Run the whole graph on a video, four processes over DDS, and show its results live.

    Shows a live panel (without a terminal, one line per second) and writes `scene.mcap`, a bag
    for `ros2 bag`, Foxglove and rosbags, and `overlay.mp4`. Ctrl-C ends it early.

    `vlm-perception demo`

    `vlm-perception demo drive.mp4`

    `vlm-perception demo 0 --seconds 30`

    `vlm-perception demo drive.mp4 --model smolvlm2-256m`

    `vlm-perception demo drive.mp4 --served Qwen/Qwen3-VL-2B-Instruct`

    Exit code: 0 at the end or after Ctrl-C, 1 when a node failed or the disk became full, 2 when
    the video or the bundle cannot be used.
    """
    asked = served_parameters(served, endpoint, key_file, allow_remote, allow_plain_http)
    with plain_errors():
        run = importlib.import_module("vlm_perception.demo.run")
        options = run.DemoOptions(video, seconds, out, bundle, asked)
        if model is not None:
            # What cannot be played is known before anything is fetched.
            run.require_playable(video)
            options = replace(options, bundle=_bundle_of(model))
        code = run.run_demo(options, Console())
    raise typer.Exit(code)


def _bundle_of(model: str) -> str:
    """The bundle of a published model, made the first time and found from then on.

    Raises:
        VlmPerceptionError: there is no such model.
        typer.Exit: it cannot become a bundle.
    """
    dual, vlm = importlib.import_module("vlm_perception.deploy.tables.models").hub_ids(model)
    if Path(dual).is_dir():
        raise VlmPerceptionError(
            f"{model} is a folder: `vlm-perception export --dual {model} --out BUNDLE` makes a "
            "bundle of it, and --bundle takes that"
        )
    ids = (dual,) if vlm is None else (dual, vlm)
    place = cache_directory() / "models" / "+".join(ids).replace("/", "--")
    # It appears there when it is whole.
    if not place.exists():
        what = "is fetched and exported" if vlm is None else "are fetched and exported"
        say(Console(), f"{' and '.join(ids)} {what}, once, into {place}")
        _export(dual, vlm, place)
    say(Console(), f"bundle: {place}")
    return str(place)


def _export(dual: str, vlm: str | None, place: Path) -> None:
    """Export in a process of its own, with which gigabytes of memory go.

    Raises:
        typer.Exit: it failed and has said why.
    """
    command = [sys.executable, "-m", "vlm_perception.cli", "export", "--dual", dual]
    command += ["--vlm", vlm] if vlm is not None else []
    with subprocess.Popen([*command, "--out", str(place)]) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            # The interrupt is the child's, too; it puts its files in order.
            code = child.wait()
    if code != 0:
        raise typer.Exit(128 - code if code < 0 else code)


@app.command()
def overlay(
    bag: Annotated[Path, typer.Argument(help="A bag that the demo recorded: scene.mcap.")],
    video: Annotated[
        Path | None, typer.Option(help="The video to write. [default: overlay.mp4 next to the bag]")
    ] = None,
    rate: Annotated[
        float, typer.Option(callback=finite, min=1, max=240, help="Frames per second.")
    ] = 30.0,
) -> None:
    """Draw the scenes of a recorded bag onto its images and write a video.

    `vlm-perception overlay out/demo/scene.mcap`
    """
    with plain_errors():
        if not bag.exists():
            raise VlmPerceptionError(f"{bag} does not exist: `vlm-perception demo` records one")
        module = importlib.import_module("vlm_perception.replay.report.overlay_video")
        target = video or bag.parent / "overlay.mp4"
        if target.suffix != ".mp4":
            raise VlmPerceptionError(f"{target} does not end in .mp4; choose a name that does")
        outputs = importlib.import_module("vlm_perception.outputs.file")
        # Next to its bag it is one of the results of the verb that made the bag.
        with outputs.result_file(target, outputs.maker(bag) or "overlay") as part:
            written = module.write_overlay(bag, part, rate_hz=rate)
            if not written.frames:
                raise VlmPerceptionError(
                    f"{bag} contains no images with scenes, so there is nothing to draw"
                )
    Console().print(f"video: {target}  ({written.frames} images)", soft_wrap=True)
