# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception view`: look at a graph or a bag in rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import TransportOption, one_of, plain_errors, with_library

app = typer.Typer()


@app.command()
def view(
    bag: Annotated[
        Path | None,
        typer.Argument(
            help="A bag with scenes, as the demo, `replay` or `ros2 bag record` writes. [default: "
            "the running graph]"
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a file (.rrd) instead of opening a viewer.")
    ] = None,
    web: Annotated[
        bool,
        typer.Option(
            "--web", help="Serve rerun's web page on this machine instead of opening a window."
        ),
    ] = False,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of that page.")] = 9090,
    namespace: Annotated[str, typer.Option(help="Namespace of the camera, such as `front`.")] = "",
    image: Annotated[
        str, typer.Option(help="Topic of the raw images; the compressed one is TOPIC/compressed.")
    ] = "image",
    transport: TransportOption = "compressed",
) -> None:
    """Look at a running graph or a bag in rerun: image, boxes, tags, answers, drift, key frames.

    Needs the extra `rerun` (`pip install rerun-sdk`). The viewer listens on this machine only.
    A running graph is shown until Ctrl-C; it must share your ROS_DOMAIN_ID.

    `vlm-perception view out/demo/scene.mcap`

    `vlm-perception view --web --image /camera/image_raw`

    `vlm-perception view out/demo/scene.mcap --save out/demo/scene.rrd`

    Exit code: 0 at the end or after Ctrl-C, 1 when the viewer does not start, 2 when the bag cannot
    be used or rerun is not installed.
    """
    one_of("--transport", transport, ("compressed", "raw"))
    with plain_errors():
        module = with_library("vlm_perception.viewer.run", "rerun", "rerun-sdk")
        options = module.ViewOptions(bag, save, web, web_port, namespace, image, transport)
        code = module.run_view(options, Console())
    raise typer.Exit(code)
