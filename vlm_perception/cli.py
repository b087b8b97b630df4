# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: `vlm-perception <verb>`. Thin: each verb calls one function elsewhere."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

BAD_INPUT = 2
FAILED = 1

app = typer.Typer(
    name="vlm-perception",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="A camera stream in, a live, typed description of the scene out: on the robot, over ROS 2."
    "\n\nStart with `vlm-perception demo`.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure speed: a table, and JSON with --json.")
train = typer.Typer(no_args_is_help=True, help="Train a model (needs torch).")
evaluate = typer.Typer(no_args_is_help=True, help="Examine a model: a table, and JSON with --json.")
bundle = typer.Typer(no_args_is_help=True, help="Look into model bundles.")
roadworld = typer.Typer(no_args_is_help=True, help="Render the procedural road world.")
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bundle, name="bundle")
app.add_typer(roadworld, name="roadworld")

BundleOption = Annotated[
    str, typer.Option(help="The model: a bundle's name (`roadworld-nano`) or its directory.")
]
BundleArgument = Annotated[str, typer.Argument(help="The bundle's name or its directory.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the figures to this file, too.")
]
TransportOption = Annotated[
    str, typer.Option(help="How images travel between the processes: `compressed` or `raw`.")
]


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2."""
    app()


@app.command()
def demo(
    video: Annotated[
        str | None,
        typer.Argument(
            help="A video file, a folder of images or a webcam's index; without it the procedural "
            "road world, 1280x720 at 30 Hz."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="End after so long; without it at the end of the video (road world: 20 s)."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the bag and the video.")] = Path("out/demo"),
    bundle: BundleOption = "roadworld-nano",
) -> None:
    """Run the whole graph on a video, four processes over DDS, and watch what it sees.

    Shows a live panel (a line a second when there is no terminal) and leaves `scene.mcap`, a bag
    for `ros2 bag`, Foxglove and rosbags, and `overlay.mp4`. Ctrl-C ends it early.

    `vlm-perception demo`

    `vlm-perception demo drive.mp4`

    `vlm-perception demo 0 --seconds 30`

    Exit code: 0 at the end or after Ctrl-C, 1 when a node failed, 2 when the video or the bundle
    cannot be used.
    """
    with _plain_errors():
        run = importlib.import_module("vlm_perception.demo.run")
        options = run.DemoOptions(video, seconds, out, bundle)
        code = run.run_demo(options, Console())
    raise typer.Exit(code)


@app.command()
def overlay(
    bag: Annotated[Path, typer.Argument(help="A bag that the demo recorded: scene.mcap.")],
    video: Annotated[
        Path | None, typer.Option(help="The video to write; overlay.mp4 beside the bag.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second.")] = 30.0,
) -> None:
    """Draw the scenes of a recorded bag onto its images and write a video.

    `vlm-perception overlay out/demo/scene.mcap`
    """
    with _plain_errors():
        if not bag.exists():
            raise ValueError(f"{bag} does not exist: `vlm-perception demo` records one")
        module = importlib.import_module("vlm_perception.demo.overlay_video")
        target = video or bag.parent / "overlay.mp4"
        written = module.write_overlay(bag, target, rate_hz=rate)
        if not written.frames:
            raise ValueError(f"{bag} holds no images with scenes, so there is nothing to draw")
    Console().print(f"video: {target}  ({written.frames} images)", soft_wrap=True)


@bench.command("graph")
def bench_graph(
    seconds: Annotated[float, typer.Option(min=3, help="How long to measure.")] = 60.0,
    force_keyframes: Annotated[
        bool, typer.Option("--force-keyframes", help="A full analysis on every tick, no repeats.")
    ] = False,
    transport: TransportOption = "compressed",
    bundle: BundleOption = "roadworld-nano",
    video: Annotated[
        str | None, typer.Option(help="Play this in a loop instead of the road world.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the four processes at 1280x720 and 30 Hz on this machine.

    Prints the share of frames encoded, the rates of analyses and scenes, latencies from capture to
    arrival in another process (p50, p95, p99), memory and processor time of each node, and what the
    machine was doing before. Close other programs first: their load is measured, too.

    `vlm-perception bench graph --seconds 60 --json graph.json`
    """
    _one_of("--transport", transport, ("compressed", "raw"))
    with _plain_errors():
        module = importlib.import_module("vlm_perception.evaluation.graph")
        options = module.BenchOptions(seconds, force_keyframes, transport, bundle, video)
        code = module.bench_graph(options, Console(), json_file)
    raise typer.Exit(code)


@bench.command("roadworld")
def bench_roadworld(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to draw, for each row.")] = 5.0,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 448,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 252,
    json_file: JsonOption = None,
) -> None:
    """Measure how many frames of the road world one core draws in a second.

    `vlm-perception bench roadworld`
    """
    with _plain_errors():
        module = importlib.import_module("vlm_perception.evaluation.roadworld_speed")
        module.bench_roadworld(width, height, seconds, Console(), json_file)


@bench.command("encoder")
def bench_encoder(
    case: Annotated[
        list[str] | None,
        typer.Option(help="A case, as `vit-b16/int8-dense`; may be given again. All by default."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Of each contestant.")] = 2,
    json_file: JsonOption = None,
) -> None:
    """Measure a bundle's vision network against transformers and a dense FP32 graph.

    Four contestants take turns in one process on one image: transformers in FP32 and in BF16, ONNX
    Runtime in FP32 on the dense graph of the checkpoint's own size, and the bundle in the engine
    that `auto` picks. Only the network is timed, on an image that is ready for it. CLIP ViT-B/16
    with random weights is made and exported into the cache, which takes some minutes the first
    time; `roadworld-nano/shipped` needs the sources' checkpoints/.

    Needs torch and transformers. Exit code 1 when other processes took so much of the machine
    that the ratios hold for nothing.

    `vlm-perception bench encoder --json encoder.json`

    `vlm-perception bench encoder --case roadworld-nano/shipped --threads 1`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.evaluation.encoder")
        code = module.bench_encoder(
            case or [], threads=threads, console=Console(), json_file=json_file
        )
    raise typer.Exit(code)


@bench.command("language")
def bench_language(
    scenes: Annotated[int, typer.Option(min=1, help="Frames of the road world.")] = 30,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Of the engine.")] = 1,
    bundle: BundleOption = "roadworld-nano",
    json_file: JsonOption = None,
) -> None:
    """Measure what a bundle's language model takes for a frame on this machine.

    Prints the times of the prefill, of all typed questions together and of the caption, the time to
    the first token, and what one more question costs. Close other programs first.

    `vlm-perception bench language --json language.json`
    """
    with _plain_errors():
        module = importlib.import_module("vlm_perception.evaluation.language")
        code = module.bench_language(
            bundle, scenes=scenes, threads=threads, console=Console(), json_file=json_file
        )
    raise typer.Exit(code)


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Directory with `dual/` (CLIP or SigLIP), optionally `vlm/` (LLaVA), bundle.yaml."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle directory to write.")],
    aspect: Annotated[
        str | None,
        typer.Option(
            help="Aspect of the camera, W:H: the picture is fitted in without distortion or crop, "
            "and patches that would be padding only are never computed."
        ),
    ] = None,
    geometry: Annotated[
        str,
        typer.Option(
            help="`bundle`: letterbox into the size that bundle.yaml or the tower gives. "
            "`checkpoint`: resize and crop as the checkpoint's own processor does. "
            "`checkpoint-fast`: so, but with area averages in place of its filter."
        ),
    ] = "bundle",
    keep: Annotated[
        str | None,
        typer.Option(
            help="Token pruning: the share of patch tokens that each of these layers keeps, "
            "`0.7@3,6,9`, or `auto` with --budget-ms."
        ),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="What the vision network may take on this machine, for --keep auto."),
    ] = None,
    heads: Annotated[
        float, typer.Option(help="Share of the vision tower's attention heads that stay.")
    ] = 1.0,
    precision: Annotated[
        str, typer.Option(help="`float16-weights`, or `int8-mixed` for INT8 feed-forward layers.")
    ] = "float16-weights",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of at least 400 images such as the camera sees: one half calibrates, the "
            "other half validates."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="An edited precision.yaml of an earlier bundle, for int8-mixed."),
    ] = None,
    accept_drift: Annotated[
        bool,
        typer.Option("--accept-drift", help="Keep the bundle even when it drifts too far."),
    ] = False,
) -> None:
    """Make a bundle of a Hugging Face checkpoint (needs torch and transformers).

    With --calibration the bundle ends with a validation on images that it was not calibrated on;
    the figures stay in its manifest.

    `vlm-perception export my-model --out models/my-model`

    `vlm-perception export my-model --out models/my-model --aspect 16:9 --keep 0.7@3,6,9
    --precision int8-mixed --calibration drive-images`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.deploy.export")
        options = importlib.import_module("vlm_perception.deploy.options").ExportOptions(
            geometry=geometry,
            aspect=aspect,
            keep=keep,
            budget_ms=budget_ms,
            heads=heads,
            precision=precision,
            calibration=calibration,
            plan=plan,
            accept_drift=accept_drift,
        )
        made = module.export_bundle(checkpoint, out, options)
    console = Console()
    if made.manifest.validation is not None:
        gate = importlib.import_module("vlm_perception.deploy.gate")
        console.print(gate.as_table(made.manifest.validation))
    else:
        console.print("not validated: --calibration IMAGES measures how far it has drifted")
    console.print(f"bundle: {made.path}  (sha256 {made.digest})", soft_wrap=True)


@app.command("profile")
def profile_bundle(
    name: BundleArgument,
    device: Annotated[
        str,
        typer.Option(
            help="`this`: measure here; or project by the datasheet of `agx-orin-64`, `orin-nx`, "
            "`orin-nano`, `thor` or `h200`."
        ),
    ] = "this",
    json_file: JsonOption = None,
) -> None:
    """Show what each layer of a bundle computes, moves and takes (needs onnx).

    Prints FLOPs, bytes, FLOPs per byte and time of each layer of the encoder and of the language
    model's prefill and decoding, which layers are bound by memory bandwidth, and each phase's share
    of an image. On a named device times are projected by a roofline; its figures are printed, too.

    `vlm-perception profile roadworld-nano`

    `vlm-perception profile roadworld-nano --device agx-orin-64 --json profile.json`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.deploy.profile_report")
        module.report_profile(name, device, Console(), json_file)


@app.command("coverage")
def coverage_bundle(
    name: BundleArgument,
    target: Annotated[str, typer.Option(help="`tensorrt`, `dla` or `openvino-npu`.")],
    json_file: JsonOption = None,
) -> None:
    """List what a target would send back to GPU or CPU, with the reason and a remedy (needs onnx).

    Holds the graphs against the target's documented tables; the target itself need not be there.

    `vlm-perception coverage roadworld-nano --target tensorrt`

    Exit code: 0 when the target runs all of it, 1 when something falls back, 2 when the bundle or
    the target cannot be used.
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.deploy.coverage_report")
        code = module.report_coverage(name, target, Console(), json_file)
    raise typer.Exit(code)


@bundle.command("show")
def bundle_show(
    name: BundleArgument,
) -> None:
    """Verify a bundle, files and golden outputs, and print what it is.

    `vlm-perception bundle show roadworld-nano`
    """
    with _plain_errors():
        loaded = importlib.import_module("vlm_perception.bundle").ModelBundle.load(name)
        loaded.verify_golden()
    Console().print(_bundle_table(loaded))


def _bundle_table(loaded: Any) -> Table:
    """What a bundle's manifest says, for people."""
    manifest = loaded.manifest
    image, language = manifest.image, manifest.language
    megabytes = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    licences = ", ".join(f"{part}: {licence}" for part, licence in manifest.licences.items())
    questions = (f"{each.name}: {', '.join(each.choices)}" for each in manifest.questions)
    rows = {
        "path": str(loaded.path),
        "digest": f"{loaded.digest} (files and golden outputs verified)",
        "size": f"{megabytes:.1f} MB in {len(manifest.files)} files, {manifest.precision}",
        "image": f"{image.width}x{image.height}, {image.columns}x{image.rows} patches",
        "vision": f"{manifest.vision.family}, {manifest.vision.tokens} tokens, "
        f"embedding {manifest.vision.embedding_width}",
        "language": f"{language.layers} layers of {language.width}" if language else "none",
        "vocabulary": ", ".join(spec.label for spec in manifest.vocabulary.labels),
        "questions": "\n".join(questions) or "none",
        "licences": licences,
        "model card": str(loaded.path / manifest.model_card),
    }
    table = Table(title=manifest.name, show_header=False)
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


@train.command("roadworld-nano")
def train_roadworld_nano(
    out: Annotated[
        Path, typer.Option(help="Folder for rendered scenes (some 20 GB), logs and checkpoints.")
    ] = Path("out/roadworld-nano"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and of the order.")] = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="Fine-tune this checkpoint directory, in a quarter of the time."),
    ] = None,
) -> None:
    """Train the small student of the road world, or go on where an earlier run stopped.

    Runs on a CUDA GPU or, for some hours, on the CPU. The result is a checkpoint directory of
    ordinary Hugging Face models; `vlm-perception export` makes a bundle of it.

    `vlm-perception train roadworld-nano --out out/roadworld-nano`

    `vlm-perception export out/roadworld-nano/checkpoint --out models/roadworld-nano`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.training.roadworld_nano")
        recipe = module.RECIPE if start is None else module.FINE_TUNE
        checkpoint = module.train(out, replace(recipe, seed=seed, start=start))
    console = Console()
    console.print(f"checkpoint: {checkpoint}", soft_wrap=True, markup=False)
    console.print(
        f"next: vlm-perception export {shlex.quote(str(checkpoint))} --out models/roadworld-nano",
        soft_wrap=True,
        markup=False,
    )


@evaluate.command("roadworld-nano")
def evaluate_roadworld_nano(
    bundle: BundleOption = "roadworld-nano",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of the exam.")] = 1000,
    json_file: JsonOption = None,
) -> None:
    """Examine a bundle on scenes of the road world from seeds that were never trained on.

    Prints tags, typed attributes, yes/no presence and captions, each beside the majority-class
    baseline and by object size.

    `vlm-perception evaluate roadworld-nano --scenes 1000 --json exam.json`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.evaluation.roadworld_nano")
        module.evaluate(bundle, scenes=scenes, json_file=json_file)


@evaluate.command("drift")
def evaluate_drift(
    checkpoint: Annotated[Path, typer.Option(help="The road world's checkpoint directory.")] = Path(
        "checkpoints/roadworld-nano"
    ),
    keep: Annotated[str, typer.Option(help="The pruning schedule to examine.")] = "0.7@2,3,4",
    out: Annotated[Path, typer.Option(help="Folder for the exported bundles.")] = Path("out/drift"),
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of the exam.")] = 1000,
    json_file: JsonOption = None,
) -> None:
    """Measure what quantization and token pruning cost the road world's student and what they save.

    Exports it dense, in INT8, pruned, and with two controls that have as few tokens: drawn at
    random, and of a smaller image. All sit the exam of `evaluate roadworld-nano` together.

    `vlm-perception evaluate drift --json drift.json`
    """
    with _plain_errors():
        module = _with_torch("vlm_perception.evaluation.drift")
        module.evaluate_drift(checkpoint, keep, out, scenes, json_file)


@evaluate.command("temporal")
def evaluate_temporal(
    bundle: BundleOption = "roadworld-nano",
    drives: Annotated[int, typer.Option(min=1, help="Drives through the road world.")] = 100,
    scenes: Annotated[
        int, typer.Option(min=1, help="Scenes that stand still while the exposure hunts.")
    ] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each.")] = 20.0,
    out: Annotated[
        Path, typer.Option(help="Folder that keeps what the networks said; a second run is quick.")
    ] = Path("out/temporal"),
    json_file: JsonOption = None,
) -> None:
    """Measure what the key-frame gate saves and misses, and how steady the tags are.

    Plays drives and scenes that were never trained on, ten ticks a second, with a full analysis at
    each; then compares the gate with that, and the temporal state with each frame alone, with an
    exponential average and with hysteresis.

    `vlm-perception evaluate temporal --json temporal.json`
    """
    with _plain_errors():
        module = importlib.import_module("vlm_perception.evaluation.temporal")
        module.evaluate_temporal(bundle, drives, scenes, seconds, out, json_file)


@roadworld.command("clip")
def roadworld_clip(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pixels.")] = 7,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 1280,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 720,
    fps: Annotated[int, typer.Option(min=1, max=240)] = 30,
) -> None:
    """Render a drive through the road world into the cache, once, and say where it is."""
    with _plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.clip")
        path = module.cached_clip(width, height, fps, seconds, seed)
    Console().print(str(path), soft_wrap=True, highlight=False)


@roadworld.command("images")
def roadworld_images(
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first.")] = 5_000_000,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 1280,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 720,
) -> None:
    """Render scenes into JPEG files, such as `vlm-perception export --calibration` takes.

    `vlm-perception roadworld images --out out/calibration`
    """
    with _plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.images")
        module.write_images(out, count, (width, height), seed)
    Console().print(f"{count} images in {out}", soft_wrap=True, highlight=False)


@roadworld.command("sheet")
def roadworld_sheet(
    out: Annotated[Path, typer.Option(help="The PNG file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 0,
    columns: Annotated[int, typer.Option(min=1, max=20)] = 4,
    rows: Annotated[int, typer.Option(min=1, max=20)] = 5,
) -> None:
    """Render a contact sheet of scenes.

    `vlm-perception roadworld sheet --out docs/img/roadworld.png`
    """
    with _plain_errors():
        module = importlib.import_module("vlm_perception.datasets.roadworld.sheet")
        path = module.write_sheet(out, seed, columns, rows)
    Console().print(str(path), soft_wrap=True, highlight=False)


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(choices)}", param_hint=option)


def _with_torch(module: str) -> Any:
    """Import a module that needs torch or what else comes with the extra `train`.

    Raises:
        MissingExtraError: torch, transformers, onnx or scikit-learn is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "vlm_perception":
            raise
        raise MissingExtraError(
            f"this needs {error.name}, which robots do without: "
            "`python3 scripts/setup_venv.py --train` in the repository installs it, elsewhere "
            "`pip install 'vlm_perception[train]'`"
        ) from error


class MissingExtraError(ValueError):
    """A library that only some verbs need is not installed."""


@contextmanager
def _plain_errors() -> Iterator[None]:
    """End with one sentence: exit code 2 for bad input, 1 for what failed while running."""
    try:
        yield
    except ValueError as error:
        # BundleError, InputError, ExportError and their like are ValueErrors by contract.
        _say(str(error))
        raise typer.Exit(BAD_INPUT) from error
    except (RuntimeError, OSError) as error:
        _say(str(error))
        raise typer.Exit(FAILED) from error


def _say(sentence: str) -> None:
    Console(stderr=True).print(
        f"error: {sentence}", style="red", soft_wrap=True, markup=False, highlight=False
    )


if __name__ == "__main__":
    main()
