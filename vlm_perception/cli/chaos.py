# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception chaos`: break the running graph on purpose."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    finite,
    plain_errors,
    report,
    with_library,
)

app = typer.Typer()


@app.command()
def chaos(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Part of a fault's name, such as `kill` or `camera`; repeatable."),
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="Number of kills in a row.")] = 50,
    messages: Annotated[int, typer.Option(min=100, help="Number of fuzzed messages.")] = 10_000,
    bundle: BundleOption = "roadworld-nano",
    json_file: JsonOption = None,
) -> None:
    """Inject faults into the running graph: kills, hangs, faulty cameras, clocks, model servers.

    Starts the three nodes as processes with a camera of its own and prints, for each fault, what
    was seen, how soon it was noticed and diagnosed, how soon the scene was OK again, and for how
    many images no scene was published. Takes about twelve minutes. Close other programs first:
    their load also delays the nodes. The faults of a served language model are tried on the
    bundle's own one, which a process then serves.
    Needs hypothesis and httpx2 (`pip install hypothesis httpx2`).

    `vlm-perception chaos --json chaos.json`

    `vlm-perception chaos --only kill --kills 10`

    Exit code: 0 when each fault was noticed, diagnosed and overcome in time, else 1.
    """
    chaos_run = "vlm_perception.evaluation.chaos.run"
    with plain_errors():
        with_library(chaos_run, "hypothesis", "hypothesis")
        with_library("vlm_perception.perception.served.transport", "httpx2", "httpx2")
    report(chaos_run, json_file, bundle, kills, messages, only or [])


@app.command()
def soak(
    minutes: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Duration after the warm-up.")
    ] = 60.0,
    warm_up: Annotated[
        float,
        typer.Option(callback=finite, min=0, help="Seconds of warm-up, which are not measured."),
    ] = 120.0,
    bundle: BundleOption = "roadworld-nano",
    json_file: JsonOption = None,
) -> None:
    """Run the graph for a long time and check whether memory grows or rates fall.

    Plays the road world in a loop through the four processes, and compares the last fifth of the
    time with the first.

    `vlm-perception soak --minutes 60 --json soak.json`

    Exit code: 0 when no process has grown by 1 % and no rate has changed by 2 %, else 1; 130
    after Ctrl-C, which prints the results so far.
    """
    report("vlm_perception.evaluation.soak", json_file, minutes, warm_up, bundle)
