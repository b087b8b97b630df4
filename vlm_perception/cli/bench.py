# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception bench`: how fast it is on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vlm_perception.cli.options.common import (
    BundleOption,
    JsonOption,
    TransportOption,
    finite,
    one_of,
    report,
)
from vlm_perception.cli.options.served import (
    ENDPOINT,
    EndpointOption,
    KeyFileOption,
    PlainHttpOption,
    RemoteOption,
    ServedOption,
    served_parameters,
    served_settings,
)

app = typer.Typer(no_args_is_help=True, help="Measure speed: a table, and JSON with --json.")


@app.command("graph")
def bench_graph(
    seconds: Annotated[
        float, typer.Option(callback=finite, min=3, help="How long to measure.")
    ] = 60.0,
    force_keyframes: Annotated[
        bool, typer.Option("--force-keyframes", help="Run a full analysis on every tick.")
    ] = False,
    transport: TransportOption = "compressed",
    bundle: BundleOption = "roadworld-nano",
    video: Annotated[
        str | None, typer.Option(help="Play this in a loop instead of the road world.")
    ] = None,
    composition: Annotated[
        str,
        typer.Option(help="`processes`: one process for each node; `single`: one process for all."),
    ] = "processes",
    cameras: Annotated[
        int,
        typer.Option(min=1, max=16, help="Number of cameras, each with its encoder and fusion."),
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            min=0.1,
            max=240,
            help="Images per second of each camera, instead of 30.",
        ),
    ] = None,
    language_dead: Annotated[
        bool, typer.Option("--language-dead", help="Then kill the language node and measure again.")
    ] = False,
    served: ServedOption = None,
    endpoint: EndpointOption = ENDPOINT,
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
    json_file: JsonOption = None,
) -> None:
    """Measure the running graph at 1280x720 and 30 Hz on this machine.

    Prints the share of frames encoded, the rates of analyses and scenes, latencies from capture to
    arrival in another process (p50, p95, p99), memory and processor time of each node, and the
    load of the machine before. Close other programs first: their load is included. With several
    cameras, one language node serves them in turn, and the figures are given for each.

    `vlm-perception bench graph --seconds 60 --json graph.json`

    `vlm-perception bench graph --composition single --json single.json`

    `vlm-perception bench graph --cameras 2 --rate 15`

    `vlm-perception bench graph --language-dead`

    `vlm-perception bench graph --served Qwen/Qwen3-VL-2B-Instruct`
    """
    one_of("--transport", transport, ("compressed", "raw"))
    one_of("--composition", composition, ("processes", "single"))
    report(
        "vlm_perception.evaluation.bench.graph",
        json_file,
        seconds=seconds,
        force_keyframes=force_keyframes,
        transport=transport,
        bundle_name=bundle,
        video=video,
        composition=composition,
        cameras=cameras,
        rate_hz=rate,
        language_dead=language_dead,
        served=served_parameters(served, endpoint, key_file, allow_remote, allow_plain_http),
    )


@app.command("roadworld")
def bench_roadworld(
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="How long to render for each row.")
    ] = 5.0,
    width: Annotated[int, typer.Option(min=16, max=7680)] = 448,
    height: Annotated[int, typer.Option(min=16, max=4320)] = 252,
    json_file: JsonOption = None,
) -> None:
    """Measure how many frames of the road world one core renders per second.

    `vlm-perception bench roadworld`
    """
    report("vlm_perception.evaluation.bench.roadworld", json_file, width, height, seconds)


@app.command("encoder")
def bench_encoder(
    case: Annotated[
        list[str] | None,
        typer.Option(help="A case, such as `vit-b16/int8-dense`; repeatable. [default: all]"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of each method.")] = 2,
    json_file: JsonOption = None,
) -> None:
    """Compare the speed of a bundle's vision model with transformers and a dense FP32 model.

    Four methods alternate in one process on one image: transformers in FP32 and in BF16, ONNX
    Runtime in FP32 with the dense model of the checkpoint's own size, and the bundle in the engine
    that `auto` chooses. Only the network is timed, on a preprocessed image. CLIP ViT-B/16
    with random weights is made and exported into the cache, which takes some minutes the first
    time; `roadworld-nano/shipped` needs the sources' checkpoints/.

    Needs torch and transformers. Exit code 1 when other processes took so much of the machine
    that the ratios are not valid.

    `vlm-perception bench encoder --json encoder.json`

    `vlm-perception bench encoder --case roadworld-nano/shipped --threads 1`
    """
    report("vlm_perception.evaluation.bench.encoder", json_file, case or [], threads=threads)


@app.command("language")
def bench_language(
    scenes: Annotated[
        int,
        typer.Option(
            min=1, help="Number of frames of the road world; fewer where they take over a minute."
        ),
    ] = 30,
    threads: Annotated[
        int, typer.Option(min=1, max=64, help="Threads of the engine, without the ROS graph.")
    ] = 1,
    pairs: Annotated[
        int,
        typer.Option(
            min=0,
            max=100,
            help="How often the language node of the ROS graph is turned off and on; 0: never.",
        ),
    ] = 5,
    seconds: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            min=2,
            help="Length of each of these phases. [default: 8, or as long as four analyses take]",
        ),
    ] = None,
    encoder_threads: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Threads of the encoder's network in the ROS graph, its `threads`."
        ),
    ] = 1,
    bundle: BundleOption = "roadworld-nano",
    video: Annotated[
        str | None, typer.Option(help="Play this in the ROS graph instead of the road world.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the times of a bundle's language model, and how much it slows the encoder down.

    First the model alone: the times of its own vision tower, if it has one, of the prefill, of all
    typed questions together, of the caption and of each token of it, the time to the first token,
    and what one more question costs. Then the four processes of the demo: the rate and the p95 of
    the encoder, alternately with the language node off and with a full analysis on every tick, the
    rate of analyses, how long an answer of ~/ask takes meanwhile, and the memory of each process. A
    model that takes seconds for an analysis takes minutes here. Close other programs first: exit
    code 1 when they took so much that the figures are not valid.

    `vlm-perception bench language --json language.json`

    `vlm-perception bench language --bundle models/my-model --pairs 2`

    `vlm-perception bench language --pairs 0`  (without ROS: the model alone)
    """
    report(
        "vlm_perception.evaluation.bench.language",
        json_file,
        bundle,
        scenes=scenes,
        threads=threads,
        pairs=pairs,
        seconds=seconds,
        encoder_threads=encoder_threads,
        video=video,
    )


@app.command("fleet")
def bench_fleet(
    model: Annotated[str, typer.Option(help="Name of the model on the server.")],
    endpoint: EndpointOption = ENDPOINT,
    robots: Annotated[int, typer.Option(min=1, max=64, help="The most robots at a time.")] = 8,
    seconds: Annotated[
        float, typer.Option(callback=finite, min=3, max=120, help="Length of each robot's drive.")
    ] = 20.0,
    image_size: Annotated[
        int, typer.Option(min=64, max=1536, help="Longer side of the images that are sent.")
    ] = 768,
    bundle: BundleOption = "roadworld-nano",
    key_file: KeyFileOption = "",
    allow_remote: RemoteOption = False,
    allow_plain_http: PlainHttpOption = False,
    json_file: JsonOption = None,
) -> None:
    """Measure how many robots one server of a language model serves.

    Plays a drive of the road world for each robot, through the key-frame gate of the language
    node, against the server: 1, 2, 4 and more robots at a time. Prints analyses, requests and
    tokens per second and how old reasonings become, from how many robots on they are stale, and
    what the gate saves. Needs no ROS.

    `vlm-perception bench fleet --model Qwen/Qwen3-VL-2B-Instruct --robots 8`
    """
    settings = served_settings(model, endpoint, key_file, allow_remote, allow_plain_http)
    report(
        "vlm_perception.evaluation.bench.fleet",
        json_file,
        replace(settings, served_image_size=image_size),
        bundle_name=bundle,
        robots=robots,
        seconds=seconds,
    )


@app.command("replay")
def bench_replay(
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="BAG", help="By default 20 s of the road world at 1280x720, 30 Hz."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads of the networks.")] = 2,
    latency: Annotated[
        Path | None,
        typer.Option(help="Write a latency model of this machine, for `replay --latency`."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure how many frames per second replay processes here, and whether memory stays flat.

    Prints the times of reading, perceiving and writing, the medians of the ONNX models, and the
    memory at equal distances along the recording. Close other programs first.

    `vlm-perception bench replay --latency robot.yaml`
    """
    report("vlm_perception.evaluation.bench.replay", json_file, recording, threads, latency)


@app.command("curation")
def bench_curation(
    images: Annotated[
        int, typer.Option(min=64, help="Images that are taken in and filtered.")
    ] = 2000,
    json_file: JsonOption = None,
) -> None:
    """Measure how fast a set is filtered, and how the search for near-duplicates grows.

    First 00_raw and 01_filtered of 640x480 JPEG files of the road world: images per second of a
    core, how many times faster two workers are where Ray is installed, and what 10^6 images would
    cost, as a projection. Then the search among 10^4, 3x10^4 and 10^5 drawn hashes, and among 10^4
    and 2x10^4 embeddings, each in a process of its own: time, memory, the exponent of the growth,
    and what follows for 10^6. Close other programs first: exit code 1 when they took so much of
    the machine that the figures are not valid.

    `vlm-perception bench curation --json curation.json`
    """
    report("vlm_perception.curation.bench.bench", json_file, images)


@app.command("gpu")
def bench_gpu(
    engine: Annotated[
        str, typer.Option(help="`onnxruntime` (with CUDA), or `tensorrt` if its plans are built.")
    ] = "onnxruntime",
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.2, help="Length of each of eight phases.")
    ] = 10.0,
    on_cpu: Annotated[
        bool, typer.Option("--on-cpu", help="Test the command on a machine without a GPU.")
    ] = False,
    bundle: BundleOption = "roadworld-nano",
    json_file: JsonOption = None,
) -> None:
    """Measure a bundle's encoder, prefill and decoding on an NVIDIA GPU.

    Prints p50 and p99 of each alone, then the encoder's at 30 Hz while the language path is idle
    and while it runs without a pause, without and with stream priority. ONNX Runtime runs the
    same models from which TensorRT's plans are built; it needs onnxruntime-gpu, pycuda and
    cuda-python. Close other programs that use the GPU first.

    `vlm-perception bench gpu --json gpu.json`

    `vlm-perception bench gpu --engine tensorrt` (after `vlm-perception build roadworld-nano`)
    """
    one_of("--engine", engine, ("onnxruntime", "tensorrt"))
    if on_cpu and engine == "tensorrt":
        raise typer.BadParameter("TensorRT needs a GPU", param_hint="--on-cpu")
    report("vlm_perception.evaluation.bench.gpu", json_file, bundle, engine, seconds, on_cpu=on_cpu)
