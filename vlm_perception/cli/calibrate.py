# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception calibrate`: fits a bundle's numbers to images of the place where it works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    report,
)
from vlm_perception.cli.options.served import (
    ENDPOINT,
    EndpointOption,
    KeyFileOption,
    PlainHttpOption,
    RemoteOption,
    ServedOption,
    served_settings,
)

app = typer.Typer(no_args_is_help=True, help="Fit thresholds and temperatures to your own images.")


@app.command("tags")
def calibrate_tags(
    images: Annotated[
        list[Path],
        typer.Option(
            help="Recordings of the site, no labels needed: a folder of images, a bag or a video; "
            "repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle directory to write.")],
    bundle: BundleOption = "roadworld-nano",
    topic: Annotated[
        str | None, typer.Option(help="Camera topic of the bags, if they have several.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Set the threshold of each label from recordings of the site, without any annotation.

    Prints for each label on how many of the images it fires, its threshold, and a verdict: `fires`,
    `never seen` or `cannot tell`. A label of the last two kinds gets a threshold above everything
    seen. Writes a copy of the bundle with these thresholds, and beside it a contact sheet, such as
    models/here.html, with the images that each label fires on. 100 different images are the least;
    1000 are better.

    `vlm-perception calibrate tags --bundle models/street --images drive.mcap --out models/here`
    """
    report("vlm_perception.evaluation.tags.calibrate", json_file, bundle, images, out, topic)


@app.command("answers")
def calibrate_answers(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of images with an `answers.jsonl`: a line for each image, such as "
            '`{"image": "0001.jpg", "answers": {"weather": "rain"}}`.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file of questions to write.")],
    bundle: BundleOption = "roadworld-nano",
    questions: Annotated[
        Path | None,
        typer.Option(help="A file of questions to calibrate. [default: the bundle's own]"),
    ] = None,
    served: ServedOption = None,
    endpoint: EndpointOption = ENDPOINT,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
) -> None:
    """Fit a temperature to each typed question, so that its probabilities are calibrated.

    Prints the negative log-likelihood and the expected calibration error before and after. Give
    the written file to the language node as its parameter `questions`, or copy the temperatures
    into the checkpoint's bundle.yaml. At least 100 answers to a question are needed; 1000 are
    better.

    `vlm-perception roadworld images --out out/answered --count 1000`

    `vlm-perception calibrate answers --data out/answered --out out/questions.yaml`
    """
    report(
        "vlm_perception.evaluation.tasks.answer_calibration",
        None,
        bundle,
        data,
        out,
        questions,
        served_settings(served, endpoint, key_file, allow_remote, allow_plain_http),
    )
