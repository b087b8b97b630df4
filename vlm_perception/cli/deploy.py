# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception export`, and the verbs that inspect or build its models."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_perception.cli.bundle import describe_tower
from vlm_perception.cli.options.common import (
    BundleArgument,
    JsonOption,
    finite,
    one_of,
    plain_errors,
    renamed,
    with_torch,
)

app = typer.Typer()


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The bundle directory to write.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="Directory with `dual/` (CLIP or SigLIP), optionally `vlm/` (LLaVA; with the "
            "`bridge` of a distilled one), bundle.yaml."
        ),
    ] = None,
    dual: Annotated[
        str | None,
        typer.Option(
            help="In place of that directory: an encoder of images and texts, by its name in "
            "`vlm-perception models`, its id on the Hugging Face hub (`ORG/NAME` or "
            "`ORG/NAME@REVISION`) or its folder."
        ),
    ] = None,
    vlm: Annotated[
        str | None, typer.Option(help="With --dual: the language model, likewise.")
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="With --dual: the labels; `street`, `indoor`, `warehouse`, `yard` or a file. "
            "`street` by default."
        ),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            help="With --vlm: the typed questions, likewise; by default those that belong to the "
            "labels."
        ),
    ] = None,
    aspect: Annotated[
        str | None,
        typer.Option(
            help="Aspect of the camera, W:H: the image is fitted in without distortion or crop, "
            "and patches that would be padding only are never computed."
        ),
    ] = None,
    geometry: Annotated[
        str,
        typer.Option(
            help="`bundle`: letterbox into the size that bundle.yaml or the tower gives. "
            "`checkpoint`: resize and crop as the checkpoint's own processor does. "
            "`checkpoint-fast`: the same with area averages instead of its filter."
        ),
    ] = "bundle",
    tiles: Annotated[
        str,
        typer.Option(
            help="What the language model's own vision tower sees of an image: `1` (the whole), "
            "`3x2+1` (also tiles, in columns and rows), or `auto`: what its own processor makes "
            "of the camera's aspect."
        ),
    ] = "1",
    image_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of an image for Qwen-VL, whose own vision tower takes any size; "
            "with --aspect they set that size. 256 by default."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Token pruning: the share of patch tokens that each of these layers keeps, "
            "`0.7@3,6,9`, or `auto` with --budget-ms."
        ),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            help="Longest time of the vision model on this machine, for --keep auto.",
        ),
    ] = None,
    heads: Annotated[
        float,
        typer.Option(callback=finite, help="Share of the vision tower's attention heads to keep."),
    ] = 1.0,
    precision: Annotated[
        str,
        typer.Option(
            help="`float16-weights`, or `int8-mixed` for INT8 in the layers of the vision tower "
            "and of the language model's own."
        ),
    ] = "float16-weights",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of about 600 images like those of your camera: one half calibrates, the "
            "other validates, and each needs 200. Required by --keep, --heads and int8-mixed."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recordings of the site without annotations, to set the tags' thresholds from, as "
            "`calibrate tags` does; repeatable."
        ),
    ] = None,
    precision_config: Annotated[
        Path | None,
        typer.Option(
            help="Precision config for int8-mixed: the edited precision.yaml of a bundle."
        ),
    ] = None,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt",
            help="Also write adapt.onnx, with which `adapt classes` adapts learned prompts on the "
            "robot; it holds the text model once more.",
        ),
    ] = False,
    accept_drop: Annotated[
        bool,
        typer.Option(
            "--accept-drop", help="Accept a bundle whose accuracy drop exceeds the tolerances."
        ),
    ] = False,
    plan: Annotated[Path | None, typer.Option(hidden=True)] = None,
    accept_drift: Annotated[bool, typer.Option("--accept-drift", hidden=True)] = False,
) -> None:
    """Make a bundle from a Hugging Face checkpoint (needs torch and transformers).

    With --calibration the export ends with a validation on images that were not used for
    calibration; the manifest stores the figures.

    `vlm-perception export my-model --out models/my-model`

    `vlm-perception export --dual google/siglip2-base-patch16-224 --out models/street`

    `vlm-perception export my-model --out models/my-model --aspect 16:9 --keep 0.7@3,6,9
    --precision int8-mixed --calibration drive-images`
    """
    if plan is not None:
        renamed("--plan", "--precision-config")
    if accept_drift:
        renamed("--accept-drift", "--accept-drop")
    if (checkpoint is None) == (dual is None):
        raise typer.BadParameter("give a directory or --dual, one of the two")
    for option, value, other, needed in (
        ("--vlm", vlm, "--dual", dual),
        ("--vocabulary", vocabulary, "--dual", dual),
        ("--questions", questions, "--vlm", vlm),
    ):
        if value is not None and needed is None:
            raise typer.BadParameter(f"it needs {other}; give that, too", param_hint=option)
    with plain_errors():
        module = with_torch("vlm_perception.deploy.export.export")
        tags = importlib.import_module("vlm_perception.evaluation.tags.calibrate")
        # Before the export, which takes minutes: a recording may be missing.
        recordings = tags.open_recordings(images or [], None)
        options = importlib.import_module("vlm_perception.deploy.export.options").ExportOptions(
            geometry=geometry,
            aspect=aspect,
            tiles=tiles,
            image_tokens=image_tokens,
            keep=keep,
            budget_ms=budget_ms,
            heads=heads,
            precision=precision,
            calibration=calibration,
            precision_config=precision_config or plan,
            adapt=adapt,
            accept_drop=accept_drop or accept_drift,
        )
        if dual is None:
            made = module.export_bundle(checkpoint, out, options)
        else:
            scenes = importlib.import_module("vlm_perception.deploy.checkpoints.scenes")
            scene = scenes.load_scene(vocabulary or "street", questions)
            models = with_torch("vlm_perception.deploy.export.models")
            made = models.export_models(dual, vlm, scene, out, options)
        report = tags.calibrate_in_place(made, recordings) if recordings else None
    console = Console()
    if report is not None:
        report.show(console, None)
        made = type(made).load(made.path)
    if made.manifest.validation is not None:
        parity = importlib.import_module("vlm_perception.deploy.validation.parity")
        console.print(parity.as_table(made.manifest.validation))
    else:
        console.print("not validated: --calibration IMAGES measures the accuracy drop")
    language = made.manifest.language
    if language is not None and language.tower is not None:
        console.print(f"vision tower of the language model: {describe_tower(language)}")
    console.print(f"bundle: {made.path}  (sha256 {made.digest})", soft_wrap=True)


@app.command("models")
def list_models(
    task: Annotated[
        str | None,
        typer.Option(
            help="Only those for a task: `general`, `documents`, `video`, `edge-1b`, `edge-3b` or "
            "`grounding`."
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Show published models that run, with their licences, sizes and projected rates (needs onnx).

    Rates are projected by a roofline from datasheets, and for this machine from its measured
    limits. `export --dual` and `demo --model` take the names.

    `vlm-perception models`

    `vlm-perception models --task edge-1b --json models.json`
    """
    with plain_errors():
        table = importlib.import_module("vlm_perception.deploy.tables.models").models_table()
        if task is not None:
            one_of("--task", task, tuple(table.tasks))
        module = with_torch("vlm_perception.deploy.profiling.models_report")
        module.report_models(task, Console(), json_file)


@app.command("profile")
def profile_bundle(
    name: BundleArgument,
    device: Annotated[
        str,
        typer.Option(
            help="`this`: measure here; or project from the datasheet of `agx-orin-64`, `orin-nx`, "
            "`orin-nano`, `thor` or `h200`."
        ),
    ] = "this",
    json_file: JsonOption = None,
) -> None:
    """Show the computation, memory traffic and time of each layer of a bundle (needs onnx).

    Prints FLOPs, bytes, FLOPs per byte and time of each layer of the encoder and of the language
    model's prefill and decoding, which layers are bound by memory bandwidth, and each phase's share
    of an image. On a named device times are projected by a roofline; its figures are printed, too.

    `vlm-perception profile roadworld-nano`

    `vlm-perception profile roadworld-nano --device agx-orin-64 --json profile.json`
    """
    with plain_errors():
        module = with_torch("vlm_perception.deploy.profiling.report")
        module.report_profile(name, device, Console(), json_file)


@app.command("coverage")
def coverage_bundle(
    name: BundleArgument,
    target: Annotated[str, typer.Option(help="`tensorrt`, `dla` or `openvino-npu`.")],
    json_file: JsonOption = None,
) -> None:
    """List operators that a target sends back to GPU or CPU, with reason and remedy (needs onnx).

    Compares the ONNX models with the target's documented tables; the target itself is not needed.

    `vlm-perception coverage roadworld-nano --target tensorrt`

    Exit code: 0 when the target runs everything, 1 when something falls back, 2 when the bundle or
    the target cannot be used.
    """
    with plain_errors():
        module = with_torch("vlm_perception.deploy.coverage.report")
        code = module.report_coverage(name, target, Console(), json_file)
    raise typer.Exit(code)


@app.command("build")
def build_plans(
    name: BundleArgument,
    level: Annotated[
        int,
        typer.Option(min=0, max=5, help="How long TensorRT looks for the fastest kernels, 0 to 5."),
    ] = 3,
    workspace_mib: Annotated[
        int, typer.Option(min=1, help="The most memory that one kernel may use, in MiB.")
    ] = 1024,
    hardware: Annotated[
        str,
        typer.Option(
            help="Other GPUs that can load the plans: `none`, `same-capability`, or `ampere` and "
            "newer; wider compatibility is slower."
        ),
    ] = "none",
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Newer versions of TensorRT can also load the plans."),
    ] = False,
    dla: Annotated[
        bool,
        typer.Option(
            "--dla", help="Build for the deep learning accelerator of a Jetson AGX or NX Orin."
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Run the plans and print each layer's precision and time."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Build nothing: check the ONNX models and run them on the CPU.",
        ),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Build TensorRT plans (engine files) on the machine that will run them (needs TensorRT, onnx).

    Plans are written to the bundle's folder tensorrt/, or to the user's cache if that is read-only.
    A plan that already fits bundle, TensorRT, GPU and options is kept.

    `vlm-perception build roadworld-nano`

    `vlm-perception build roadworld-nano --layers --json layers.json`

    `vlm-perception build roadworld-nano --dry-run` (on any machine)
    """
    one_of("--hardware", hardware, ("none", "same-capability", "ampere"))
    with plain_errors():
        module = with_torch("vlm_perception.deploy.tensorrt.report")
        options = importlib.import_module(
            "vlm_perception.engines.tensorrt.plan_store"
        ).BuildOptions(
            optimization_level=level,
            workspace_mib=workspace_mib,
            hardware=hardware,
            any_version=any_version,
            dla=dla,
        )
        if dry_run:
            module.report_dry_run(name, options, Console(), json_file)
        else:
            module.report_build(name, options, Console(), layers=layers, json_file=json_file)
