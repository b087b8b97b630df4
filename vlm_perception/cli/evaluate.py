# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception evaluate`: how good a model is."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vlm_perception.cli.evaluate_judge import evaluate_judge
from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    SkipBrokenOption,
    finite,
    plain_errors,
    renamed,
    report,
    require_portable,
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

app = typer.Typer(no_args_is_help=True, help="Evaluate a model: a table, and JSON with --json.")


@app.command("roadworld-nano")
def evaluate_roadworld_nano(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    json_file: JsonOption = None,
) -> None:
    """Evaluate a bundle on scenes of the road world from seeds that were not used in training.

    Prints metrics of tags, typed attributes, yes/no presence and captions, each with the
    majority-class baseline and by object size.

    `vlm-perception evaluate roadworld-nano --scenes 1000 --json roadworld.json`
    """
    report("vlm_perception.evaluation.tasks.roadworld", json_file, bundle, scenes)


@app.command("instructions")
def evaluate_instructions(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=2, help="Number of scenes.")] = 500,
    json_file: JsonOption = None,
) -> None:
    """Evaluate instruction following, in wordings and on scenes that were not used in training.

    Prints the accuracy for each kind of instruction, next to two baselines: answers derived from
    the bundle's captions, and the most common answer.

    `vlm-perception evaluate instructions --scenes 500 --json instructions.json`
    """
    report("vlm_perception.evaluation.tasks.instructions", json_file, bundle, scenes)


@app.command("thresholds")
def evaluate_thresholds(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=2000, help="Number of scenes.")] = 3000,
    draws: Annotated[int, typer.Option(min=1, help="Number of draws for each label.")] = 4,
    first_seed: Annotated[int, typer.Option(min=0, help="First seed of the scenes.")] = 80_000_000,
    json_file: JsonOption = None,
) -> None:
    """Judge the thresholds of `calibrate tags` on scenes where the truth is known.

    Sets thresholds on 800 images of which 0, 1, 3, 10 or 30 % show the label, from cosines under a
    hidden scale and offset, and judges them on other images: false alarms, and F1 relative to that
    of the best threshold. Otsu's method is judged for comparison.

    `vlm-perception evaluate thresholds --json thresholds.json`
    """
    evaluation = "vlm_perception.evaluation.tags.evaluate"
    report(evaluation, json_file, bundle, scenes, draws, first_seed)


@app.command("compression")
def evaluate_compression(
    checkpoint: Annotated[Path, typer.Option(help="The road world's checkpoint directory.")] = Path(
        "checkpoints/roadworld-nano"
    ),
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A pruning schedule to evaluate, `0.7@2,3,4`; repeatable."),
    ] = None,
    heads: Annotated[
        list[float] | None,
        typer.Option(
            callback=finite,
            help="A share of the attention heads to keep, `0.75`; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the exported bundles; a second run reuses them.")
    ] = Path("out/compression"),
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    timed: Annotated[int, typer.Option(min=1, help="Number of scenes for the times.")] = 50,
    json_file: JsonOption = None,
) -> None:
    """Measure the accuracy drop and the speed-up from quantizing and pruning the student.

    Exports the road world's student dense, in INT8, with a decoder of INT4 weights, without some
    heads, and pruned by each schedule (0.7@2,3,4 by default), with two baselines of equally few
    tokens: random tokens, and a smaller image. All are evaluated as in `evaluate roadworld-nano`,
    on the same scenes. Times are measured in turn, on one thread; close other programs first.

    `vlm-perception evaluate compression --json compression.json`

    `vlm-perception evaluate compression --keep 0.8@2,3,4 --keep 0.6@2,3,4 --heads 0.75`
    """
    report(
        "vlm_perception.evaluation.compression.evaluate",
        json_file,
        checkpoint,
        keep or ["0.7@2,3,4"],
        heads or [],
        out,
        scenes=scenes,
        timed=timed,
    )


@app.command("drift", hidden=True)
@wraps(evaluate_compression)
def evaluate_drift(**options: Any) -> None:
    """The former name of `evaluate compression`."""
    renamed("evaluate drift", "evaluate compression")
    evaluate_compression(**options)


@app.command("temporal")
def evaluate_temporal(
    bundle: BundleOption = "roadworld-nano",
    drives: Annotated[
        int, typer.Option(min=1, help="Number of drives through the road world.")
    ] = 100,
    scenes: Annotated[
        int, typer.Option(min=1, help="Number of still scenes with varying exposure.")
    ] = 20,
    seconds: Annotated[
        float, typer.Option(callback=finite, min=1, help="Length of each in seconds.")
    ] = 20.0,
    out: Annotated[
        Path, typer.Option(help="Folder that keeps the networks' outputs; a second run is fast.")
    ] = Path("out/temporal"),
    first_seed: Annotated[
        int,
        typer.Option(min=0, help="First seed of drives and scenes; tune on seeds from 6000000."),
    ] = 30_000_000,
    json_file: JsonOption = None,
) -> None:
    """Measure what the key-frame policy saves and misses, and how steady tags and answers are.

    Plays drives and scenes that were not used in training at ten ticks per second, with a full
    analysis of each, on all cores; an interrupted run continues. Then compares the key-frame policy
    with that, and the temporal state with single frames, an exponential average and hysteresis.

    `vlm-perception evaluate temporal --json temporal.json`
    """
    evaluation = "vlm_perception.evaluation.temporal.evaluate"
    report(evaluation, json_file, bundle, drives, scenes, seconds, out, first_seed)


@app.command("hazards")
def evaluate_hazards(
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="A road-world bundle; repeatable, to compare a pruned and a dense one."),
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=1, help="Number of scenes of each kind at each distance.")
    ] = 200,
    json_file: JsonOption = None,
) -> None:
    """Measure the recall of pedestrians, cyclists and cars in the lane by their distance.

    Renders scenes with one of them at a known distance, and the same number without any for the
    false alarms, and analyses each with the fast path alone and with both paths fused.

    `vlm-perception export checkpoints/roadworld-nano --out out/dense`

    `vlm-perception evaluate hazards --bundle roadworld-nano --bundle out/dense --json hazards.json`
    """
    bundles = bundle or ["roadworld-nano"]
    report("vlm_perception.evaluation.tasks.hazards", json_file, bundles, scenes)


@app.command("locate")
def evaluate_locate(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 500,
    json_file: JsonOption = None,
) -> None:
    """Measure how well phrases are located, on scenes that were not used in training.

    Asks for things by label, by label and colour, and by label and place, with every method of
    `locate` that the bundle can do. The baselines are the regions of the tags and the whole image,
    the true boxes are the upper bound. Prints pointing accuracy (the centre of the best box is on
    the object), recall and precision, by size and distance, and how often an absent thing gets no
    box.

    `vlm-perception evaluate locate --scenes 500 --json locate.json`
    """
    report("vlm_perception.evaluation.locate.evaluate", json_file, bundle, scenes)


@app.command("following")
def evaluate_following(
    bundle: BundleOption = "roadworld-nano",
    drives: Annotated[int, typer.Option(min=1, help="Number of drives.")] = 8,
    seconds: Annotated[
        float, typer.Option(callback=finite, min=1, max=600, help="Length of each drive.")
    ] = 20.0,
    json_file: JsonOption = None,
) -> None:
    """Measure how long objects are followed by ~/locate with track, on drives.

    Begins with the best box of a label each second and follows it by the patch embeddings, as
    language_reasoner does. Prints how much of the time the box is on that object, beside a box that
    stays where it began, and how many objects are lost or confused with another one.

    `vlm-perception evaluate following --drives 8 --json following.json`
    """
    report("vlm_perception.evaluation.locate.following", json_file, bundle, drives, seconds)


@app.command("hallucination")
def evaluate_hallucination(
    bundle: BundleOption = "roadworld-nano",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images with objects.jsonl. [default: the road world]"),
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
    if data is not None and scenes is not None:
        raise typer.BadParameter(
            "is of the road world; leave it out with --data", param_hint="--scenes"
        )
    evaluation = "vlm_perception.evaluation.hallucination.evaluate"
    report(evaluation, json_file, bundle, data, scenes or 500, out, skip_broken=skip_broken)


@app.command("retrieval")
def evaluate_retrieval(
    bundle: BundleOption = "roadworld-nano",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images with captions.jsonl. [default: the road world]"),
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
    if data is not None and scenes is not None:
        raise typer.BadParameter(
            "is of the road world; leave it out with --data", param_hint="--scenes"
        )
    evaluation = "vlm_perception.evaluation.retrieval.evaluate"
    report(evaluation, json_file, bundle, data, scenes or 1000, out, skip_broken=skip_broken)


@app.command("cost")
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


@app.command("pope")
def evaluate_pope(
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
            help="Folder of images whose `objects.jsonl` lists what can be seen in each, to build "
            "questions from."
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
    sources: dict[str, object] = {"--questions": questions, "--data": data, "--scenes": scenes}
    if answers:
        sources = {"--answers": answers, "--images": images, "--data": data, "--scenes": scenes}
    several = [option for option, value in sources.items() if value is not None]
    if len(several) > 1:
        raise typer.BadParameter(f"does not go with {several[0]}", param_hint=several[1])
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
        **_worded(wording, data),
    )


app.command("judge")(evaluate_judge)


@app.command("lmms")
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


@app.command("report")
def evaluate_report(
    bundle: BundleOption = "roadworld-nano",
    against: Annotated[
        str | None,
        typer.Option(help="Another bundle, to be compared with it on the same images."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images with captions.jsonl, objects.jsonl or answers.jsonl. [default: "
            "the road world]"
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
    if data is not None and scenes is not None:
        raise typer.BadParameter(
            "is of the road world; leave it out with --data", param_hint="--scenes"
        )
    report(
        "vlm_perception.evaluation.card.evaluate",
        None,
        bundle,
        against,
        out,
        data=data,
        scenes=scenes or 300,
        **_worded(wording, data),
        skip_broken=skip_broken,
        exams=exam or (),
    )


def _worded(wording: str | None, data: Path | None) -> dict[str, str]:
    """The wording of POPE's questions as an argument; none for the published one.

    Raises:
        typer.BadParameter: it has no place for the object, or the road world has its own.
    """
    if wording is None:
        return {}
    if data is None or "{}" not in wording:
        why = "needs {} in place of the object" if data else "is for --data"
        raise typer.BadParameter(why, param_hint="--wording")
    return {"wording": wording}


@app.command("agreement")
def evaluate_agreement(
    recording: Annotated[
        Path | None,
        typer.Argument(
            metavar="BAG", help="A bag. [default: 20 s of the road world, 640x360 at 30 Hz]"
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(callback=finite, min=0.01, max=10, help="Playback speed, for busy machines."),
    ] = 1.0,
    engine: Annotated[
        str, typer.Option(help="Engine of both: `onnxruntime` or `openvino`.")
    ] = "onnxruntime",
    out: Annotated[Path, typer.Option(help="Folder for the live bag and both replays.")] = Path(
        "out/agreement"
    ),
    json_file: JsonOption = None,
) -> None:
    """Compare offline replay with the live nodes: do they give the same results for one bag?

    Plays the bag with /clock through the three nodes, records their results, and replays it offline
    twice: on virtual time, and on the frames that the live nodes processed. The first shows how
    much depends on which frames a machine has time for, the second whether anything else differs.

    `vlm-perception evaluate agreement drive_bag`

    Exit code: 0 when the second agrees within `compare`'s tolerances, else 1.
    """
    require_portable(engine)
    report("vlm_perception.evaluation.agreement", json_file, recording, rate, engine, out)
