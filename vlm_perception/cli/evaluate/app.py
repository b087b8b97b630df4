# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The verbs of `evaluate`; those that take any images are in files of their own."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_perception.cli.evaluate.images import (
    evaluate_cost,
    evaluate_curation,
    evaluate_hallucination,
    evaluate_lmms,
    evaluate_pope,
    evaluate_report,
    evaluate_retrieval,
)
from vlm_perception.cli.evaluate.judge import evaluate_judge
from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    finite,
    renamed,
    report,
    require_portable,
)

app = typer.Typer(no_args_is_help=True, help="Evaluate a model: a table, and JSON with --json.")


@app.command("roadworld-nano")
def evaluate_roadworld_nano(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    appearance: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0,
            max=1,
            help="How far streets and cameras may be from the plain ones: 0 not at all, 1 most.",
        ),
    ] = 0.0,
    json_file: JsonOption = None,
) -> None:
    """Evaluate a bundle on scenes of the road world from seeds that were not used in training.

    Prints metrics of tags, typed attributes, yes/no presence and captions, each with the
    majority-class baseline and by object size. With --appearance 1 the same streets have other
    textures, colours and scenery, and other cameras see them.

    `vlm-perception evaluate roadworld-nano --scenes 1000 --json roadworld.json`
    """
    report("vlm_perception.evaluation.tasks.roadworld", json_file, bundle, scenes, appearance)


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


@app.command("distillation")
def evaluate_distillation(
    runs: Annotated[
        Path, typer.Argument(help="Folder of runs, as `distil --seeds 5 --out RUNS` leaves it.")
    ],
    scenes: Annotated[int, typer.Option(min=20, help="Number of scenes.")] = 1000,
    timed: Annotated[
        int, typer.Option(min=1, help="Number of scenes for the times of language models.")
    ] = 50,
    out: Annotated[
        Path, typer.Option(help="Folder for bundles and scores; a second run is fast.")
    ] = Path("out/evaluate-distillation"),
    json_file: JsonOption = None,
) -> None:
    """Judge what students have kept of their teacher, by runs of `distil` on the road world.

    Exports every finished run, lets the bundles tag scenes that no training has seen, and prints
    macro average precision of the arms teacher, distilled, image-labels, dense-truth and
    images-only, what is kept of it beyond chance, and whether the distilled student is better than
    one trained on image labels. Of runs with a language model it prints what captions and answers
    keep with fewer tokens, and what an image takes; close other programs for the times. Of runs
    with a section `quantization`: what calibration loses, and what training wins back. Intervals
    are over seeds and images; what is missing is listed.

    `vlm-perception evaluate distillation out/distillation --json distillation.json`
    """
    evaluation = "vlm_perception.evaluation.distillation.evaluate"
    report(evaluation, json_file, runs, scenes=scenes, timed=timed, out=out)


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


app.command("hallucination")(evaluate_hallucination)
app.command("curation")(evaluate_curation)
app.command("retrieval")(evaluate_retrieval)
app.command("cost")(evaluate_cost)
app.command("pope")(evaluate_pope)
app.command("judge")(evaluate_judge)
app.command("lmms")(evaluate_lmms)
app.command("report")(evaluate_report)


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
