# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception evaluate judge`: how good texts are, as a judge or people rate them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    SkipBrokenOption,
    plain_errors,
    refuse,
    report,
    require_one_source,
    with_library,
)
from vlm_perception.cli.options.served import (
    ENDPOINT,
    KeyFileOption,
    PlainHttpOption,
    RemoteOption,
    served_settings,
)


def evaluate_judge(
    context: typer.Context,
    bundle: BundleOption = "roadworld-nano",
    against: Annotated[
        str | None,
        typer.Option(help="Another bundle, whose texts are compared with those of --bundle."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, and questions.jsonl if they are to be asked about, or a "
            "curated set. [default: the road world]"
        ),
    ] = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, help="Number of scenes of the road world. [default: 50]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(envvar="VLM_PERCEPTION_JUDGE_MODEL", help="Name of the judge on its server."),
    ] = None,
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="VLM_PERCEPTION_JUDGE_ENDPOINT", help="Address of that OpenAI-compatible server."
        ),
    ] = ENDPOINT,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
    export: Annotated[
        Path | None,
        typer.Option(help="In place of a judge: write a page on which people rate the texts."),
    ] = None,
    ratings: Annotated[
        list[Path] | None,
        typer.Option("--import", help="A file that such a page saved; once for each rater."),
    ] = None,
    skip_broken: SkipBrokenOption = False,
    out: Annotated[
        Path, typer.Option(help="Folder for texts and answers; an interrupted run continues.")
    ] = Path("out/judge"),
    json_file: JsonOption = None,
) -> None:
    """Let a judge or people rate what a bundle writes, or compare two bundles.

    The judge is a model behind an OpenAI-compatible server. It scores texts from 1 to 5, or with
    --against chooses between two, asked in both orders; the share of choices that follow the order
    is printed. Or people rate: --export writes a page without names, --import reads what it saved
    and prints Cohen's kappa and Krippendorff's alpha by language. Without questions, which are
    lines like `{"image": "0001.jpg", "question": "is it safe?", "language": "en"}`, images are
    described.

    `vlm-perception evaluate judge --against out/b --model Qwen/Qwen3-VL-8B-Instruct`

    `vlm-perception evaluate judge --against out/b --export sheet.html`

    `vlm-perception evaluate judge --import ratings-ann.json --import ratings-bo.json`

    Exit code: 0 when all was judged, 1 when some answers of the judge were unusable.
    """
    judge = {"model", "endpoint", "key_file", "allow_remote", "allow_plain_http"}
    texts = {"bundle", "against", "data", "scenes", "skip_broken"}
    if ratings:
        refuse(context, {*judge, *texts, "export"}, "leave it out with --import")
        with plain_errors():
            with_library("krippendorff", "krippendorff", "krippendorff")
        report("vlm_perception.evaluation.judge.ratings", json_file, ratings, out)
    require_one_source(context, data)
    options: dict[str, Any] = {"out": out, "skip_broken": skip_broken}
    if export is not None:
        refuse(context, {*judge, "json_file"}, "leave it out with --export")
        sheet = "vlm_perception.evaluation.judge.sheet"
        report(sheet, None, bundle, against, data, scenes or 50, export, **options)
    if model is None:
        raise typer.BadParameter(
            "name the judge, or let people rate with --export", param_hint="--model"
        )
    settings = served_settings(model, endpoint, key_file, allow_remote, allow_plain_http)
    evaluation = "vlm_perception.evaluation.judge.evaluate"
    where = settings.checked_endpoint()
    report(evaluation, json_file, bundle, against, data, scenes or 50, where, **options)
