# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception evaluate`: how good a bundle is on any images, and what one costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    SkipBrokenOption,
    plain_errors,
    refuse,
    report,
    require_one_source,
    with_extra,
)

_LMMS_REMEDY = (
    "`python3 -m venv lmms && lmms/bin/pip install '.[lmms]'` in the repository makes an "
    "environment that has it, whose lmms/bin/vlm-perception can do this"
)

WordingOption = Annotated[
    str | None,
    typer.Option(
        help="Wording of POPE's questions about --data, with {} in place of the object. "
        "[default: Is there {} in the image?]"
    ),
]
_OF_QUESTIONS = {"data", "wording", "scenes"}
_UNUSED = {
    "answers": {*_OF_QUESTIONS, "bundle", "images", "out", "skip_broken"},
    "questions": _OF_QUESTIONS,
    "images": _OF_QUESTIONS,
    "data": {"scenes"},
    "scenes": {"wording", "skip_broken"},
}
"""Options of `evaluate pope` that have no effect, by the one that its questions come from."""


def evaluate_hallucination(
    context: typer.Context,
    bundle: BundleOption = "roadworld-nano",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images with objects.jsonl, or a curated set. [default: the road world]"
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(min=2, help="Number of scenes of the road world. [default: 500]"),
    ] = None,
    skip_broken: SkipBrokenOption = False,
    out: Annotated[
        Path, typer.Option(help="Folder for the captions; an interrupted run continues.")
    ] = Path("out/hallucination"),
    json_file: JsonOption = None,
) -> None:
    """Measure how often captions name objects that are not in the image.

    Prints CHAIR by texts and by objects, recall, and the number of objects named: of whole
    captions, of what is shown while they are written, and of captions that are cut off; again with
    the input of the vision towers shrunk to 1/2, 1/4 and 1/8. Each line of objects.jsonl is like
    `{"image": "0001.jpg", "objects": ["bus", "traffic light"]}` and names all that can be seen;
    synonyms.yaml beside it may say what else they are called.

    `vlm-perception evaluate hallucination --data my_images --json hallucination.json`
    """
    require_one_source(context, data)
    evaluation = "vlm_perception.evaluation.hallucination.evaluate"
    report(evaluation, json_file, bundle, data, scenes or 500, out, skip_broken=skip_broken)


def evaluate_retrieval(
    context: typer.Context,
    bundle: BundleOption = "roadworld-nano",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images with captions.jsonl, or a curated set. [default: the road world]"
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of scenes of the road world. [default: 1000]"),
    ] = None,
    skip_broken: SkipBrokenOption = False,
    out: Annotated[
        Path, typer.Option(help="Folder that keeps the embeddings; a second run is fast.")
    ] = Path("out/retrieval"),
    json_file: JsonOption = None,
) -> None:
    """Measure how well images find their captions, and captions their images.

    Prints recall at 1, 5 and 10 both ways, and by language where there are several, with 95 %
    intervals, the size of the pool and what chance gives. An item that scores as high as a right
    one counts as standing before it. Each line of captions.jsonl is like
    `{"image": "0001.jpg", "captions": ["a red bus"], "language": "en"}`.

    `vlm-perception evaluate retrieval --data my_images --json retrieval.json`
    """
    require_one_source(context, data)
    evaluation = "vlm_perception.evaluation.retrieval.evaluate"
    report(evaluation, json_file, bundle, data, scenes or 1000, out, skip_broken=skip_broken)


def evaluate_curation(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[
        int,
        typer.Option(min=20, help="Number of scenes of the road world, for each of two halves."),
    ] = 500,
    false_reject: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of right captions that may be left out.")
    ] = 0.1,
    json_file: JsonOption = None,
) -> None:
    """Measure how well `curate` tells captions with one fault from right ones.

    The faults: an object added, removed or swapped, a wrong count, wrong weather. Thresholds are
    calibrated on other scenes. Prints for the score alone, and with the rules of the tagger, the
    area under the curve of each fault, which share is removed, and which of the right ones stay.

    `vlm-perception evaluate curation --scenes 500 --json curation.json`
    """
    report("vlm_perception.curation.exam.wrong_captions", json_file, bundle, scenes, false_reject)


def evaluate_cost(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[
        int,
        typer.Option(
            min=1, help="Number of frames of the road world; fewer where they take over a minute."
        ),
    ] = 100,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the engines.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Measure what an image costs with a bundle on this machine.

    Prints p50 and p95 of encoder, prefill and caption, and of all together; tokens, and bytes of
    keys and values; peak memory of a process that does nothing else, and of the GPU; energy, where
    the machine tells it (RAPL, or the INA3221 of a Jetson), idle power included. Close other
    programs first: exit code 1 when they took so much that the figures are not valid.

    `vlm-perception evaluate cost --json cost.json`
    """
    evaluation = "vlm_perception.evaluation.cost.evaluate"
    report(evaluation, json_file, bundle, scenes=scenes, threads=threads)


def evaluate_pope(
    context: typer.Context,
    bundle: BundleOption = "roadworld-nano",
    questions: Annotated[
        list[str] | None,
        typer.Option(
            help="A file of questions in POPE's format, with random, popular or adversarial in its "
            "name, or as `random=FILE`; repeatable."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder with the questions' images.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images whose `objects.jsonl` lists what can be seen in each, or a "
            "curated set, to build questions from."
        ),
    ] = None,
    wording: WordingOption = None,
    scenes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of scenes of the road world. [default: 500]"),
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            help="Score a file of answers in POPE's format in place of a bundle, named as "
            "--questions are; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for questions and answers; an interrupted run continues there."),
    ] = Path("out/pope"),
    skip_broken: SkipBrokenOption = False,
    json_file: JsonOption = None,
) -> None:
    """Measure object hallucination with POPE: does the model see objects that are not there?

    Asks whether objects are in images, as many that are as are not; these are random ones, popular
    ones, or such as often go with what is there (adversarial). Prints accuracy, precision, recall,
    F1 and the share of yes, by the likelihood of yes and no, and by the text that is written.

    `vlm-perception evaluate pope --scenes 500 --json pope.json`

    `vlm-perception evaluate pope --bundle out/llava --data labelled_images`

    `vlm-perception evaluate pope --bundle out/llava --questions coco_pope_random.json --images
    val2014`

    `vlm-perception evaluate pope --questions coco_pope_random.json --answers random=answers.jsonl`

    Exit code: with --answers 1 unless each question has one answer.
    """
    given = {"answers": answers, "questions": questions, "images": images, "data": data}
    source = next((name for name, value in given.items() if value), "scenes")
    without = f"leave it out with --{source}" if source != "scenes" else "is for --data"
    refuse(context, _UNUSED[source], without)
    if answers:
        if not questions:
            raise typer.BadParameter("is needed for --answers", param_hint="--questions")
        report("vlm_perception.evaluation.pope.score_answers", json_file, questions, answers)
    if bool(questions) != (images is not None):
        raise typer.BadParameter(
            "is needed, too", param_hint="--images" if questions else "--questions"
        )
    report(
        "vlm_perception.evaluation.pope.evaluate",
        json_file,
        bundle,
        out,
        questions=questions or (),
        images=images,
        data=data,
        scenes=scenes or 500,
        skip_broken=skip_broken,
        **_worded(wording),
    )


def evaluate_lmms(
    tasks: Annotated[
        str, typer.Option(help="Tasks, groups or tags of lmms-eval, separated by commas.")
    ],
    bundle: BundleOption = "roadworld-nano",
    include_path: Annotated[
        Path | None,
        typer.Option(help="Folder with further task files; they come before lmms-eval's own."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first so many rows of each task.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the answers; an interrupted run continues there.")
    ] = Path("out/lmms"),
    json_file: JsonOption = None,
) -> None:
    """Evaluate a bundle on standard sets, by the tasks of lmms-eval: MMBench, MMMU and others.

    The bundle's graphs answer, pruned and quantized as they are. Rows that it cannot answer, such
    as those with two images, are counted. Prints what lmms-eval computes, and what it belongs to:
    the digest of the task's files, and commit or digest of the data. Tasks that ask a paid judge
    are refused. Needs the extra lmms, best in an environment of its own.

    `vlm-perception evaluate lmms --bundle out/llava --tasks mmbench_en_dev_static,realworldqa`

    Exit code: 1 if none of a task's rows could be answered.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    with plain_errors():
        module = with_extra("vlm_perception.evaluation.lmms.evaluate", _LMMS_REMEDY)
        found = module.run(bundle, names, out, include=include_path, limit=limit)
        code = found.show(Console(), json_file)
    raise typer.Exit(code)


def evaluate_report(
    context: typer.Context,
    bundle: BundleOption = "roadworld-nano",
    against: Annotated[
        str | None,
        typer.Option(help="Another bundle, to be compared with it on the same images."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images with captions.jsonl, objects.jsonl or answers.jsonl, or a "
            "curated set. [default: the road world]"
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(min=2, help="Number of scenes of the road world. [default: 300]"),
    ] = None,
    wording: WordingOption = None,
    exam: Annotated[
        list[Path] | None,
        typer.Option(
            help="Figures that another evaluation of the bundle wrote with --json, such as "
            "`hazards`, to be shown, too; repeatable."
        ),
    ] = None,
    skip_broken: SkipBrokenOption = False,
    out: Annotated[
        Path, typer.Option(help="Folder for the report; an interrupted run continues.")
    ] = Path("out/report"),
) -> None:
    """Make the report card of a bundle: report.html, and its figures as report.json.

    Evaluates what the data allow: retrieval with captions, tags, POPE and hallucination with
    objects, typed answers and their calibration with answers; and measures the cost, on the road
    world. All figures have 95 % intervals. With --against two bundles stand side by side, and it is
    said which of their differences are more than chance, over all figures together.

    `vlm-perception evaluate report --bundle out/mine --against roadworld-nano`

    `vlm-perception evaluate report --exam temporal.json --exam hazards.json`

    Exit code: 1 if the machine was too loaded for the cost to be valid; the rest holds.
    """
    require_one_source(context, data)
    report(
        "vlm_perception.evaluation.card.evaluate",
        None,
        bundle,
        against,
        out,
        data=data,
        scenes=scenes or 300,
        **_worded(wording),
        skip_broken=skip_broken,
        exams=exam or (),
    )


def _worded(wording: str | None) -> dict[str, str]:
    """The wording of POPE's questions as an argument; none for the published one.

    Raises:
        typer.BadParameter: it has no place for the object.
    """
    if wording is None:
        return {}
    if "{}" not in wording:
        raise typer.BadParameter("needs {} in place of the object", param_hint="--wording")
    return {"wording": wording}
