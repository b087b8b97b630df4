# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Prints a profile, and gives it as JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.profiling.profile import (
    RUNS,
    LayerProfile,
    PhaseProfile,
    Profile,
    profile_bundle,
)
from vlm_perception.outputs.console import say
from vlm_perception.outputs.file import write_figures


def report_profile(name: str, device: str, console: Console, json_file: Path | None) -> None:
    """Profile a bundle and print it.

    Raises:
        VlmPerceptionError: the bundle, the device or an operator cannot be used.
    """
    profile = profile_bundle(ModelBundle.load(name), device)
    for table in (*(_phase_table(profile, phase) for phase in profile.phases), _sums(profile)):
        console.print(table)
    _say(console, profile)
    if json_file is not None:
        write_figures(json_file, as_json(profile))


def as_json(profile: Profile) -> dict[str, Any]:
    """All figures, times in milliseconds."""
    return {
        "bundle": profile.bundle,
        "digest": profile.digest,
        "device": dataclasses.asdict(profile.device),
        "times": _kind(profile),
        "image_tokens": profile.image_tokens,
        "prompt_tokens": profile.prompt_tokens,
        "caption_tokens": profile.caption_tokens,
        "model_bytes": profile.model_bytes,
        "cache_bytes": profile.cache_bytes,
        "ms": 1e3 * profile.seconds,
        "phases": [
            {
                "name": each.phase.name,
                "graph": each.phase.graph,
                "repeats": each.phase.repeats,
                "share": profile.share(each),
                "ms": 1e3 * each.seconds,
                "layers": [_layer_json(layer) for layer in each.layers],
            }
            for each in profile.phases
        ],
    }


def _layer_json(layer: LayerProfile) -> dict[str, Any]:
    cost = layer.cost
    return {
        "name": layer.name,
        "flops": cost.flops,
        "int8_flops": cost.int8_flops,
        "weight_bytes": cost.weight_bytes,
        "activation_bytes": cost.activation_bytes,
        "flops_per_byte": cost.intensity,
        "ms": 1e3 * layer.seconds,
        "bound": layer.bound,
    }


def _phase_table(profile: Profile, phase: PhaseProfile) -> Table:
    sizes = ", ".join(f"{name} {list(shape)}" for name, shape in phase.phase.shapes.items())
    title = f"{phase.phase.name}: {phase.phase.graph}, times {_kind(profile)}\n{sizes}".rstrip()
    # As narrow as it can be: it is to fit into 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("layer", no_wrap=True)
    for column in ("MFLOP", "INT8\nMFLOP", "weights\nkB", "activ.\nkB", "FLOP/\nbyte", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    for layer in phase.layers:
        cost = layer.cost
        figures = (
            f"{cost.flops / 1e6:.1f}",
            f"{cost.int8_flops / 1e6:.1f}",
            f"{cost.weight_bytes / 1e3:.0f}",
            f"{cost.activation_bytes / 1e3:.0f}",
            f"{cost.intensity:.1f}",
        )
        counted = figures if layer.bound is not None else ("",) * len(figures)
        table.add_row(layer.name, *counted, f"{1e3 * layer.seconds:.3g}", layer.bound or "")
    return table


def _sums(profile: Profile) -> Table:
    title = f"{profile.bundle} on {profile.device.name}, times {_kind(profile)}"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase")
    for column in ("GFLOP", "MB", "ms", "runs per image", "ms per image"):
        table.add_column(column, justify="right")
    table.add_column("share", justify="right")
    for each in profile.phases:
        repeats = each.phase.repeats
        table.add_row(
            each.phase.name,
            f"{each.cost.flops / 1e9:.3f}",
            f"{each.cost.bytes / 1e6:.2f}",
            f"{1e3 * each.seconds:.3g}",
            str(repeats) if repeats else "labels only",
            f"{1e3 * each.seconds * repeats:.3g}" if repeats else "",
            f"{profile.share(each):.1%}" if repeats else "",
        )
    return table


def _say(console: Console, profile: Profile) -> None:
    device = profile.device
    bound = sum(layer.bound == "memory" for each in profile.phases for layer in each.layers)
    layers = sum(layer.bound is not None for each in profile.phases for layer in each.layers)
    lines = [
        f"{1e3 * profile.seconds:.3g} ms an image, {_kind(profile)}; memory bandwidth bounds "
        f"{bound} of {layers} layers",
        f"tokens of the image: {profile.image_tokens}",
        f"model: {profile.model_bytes / 1e6:.1f} MB in files",
        f"{device.origin} limits: {device.float_flops / 1e12:.4g} TFLOPS in "
        f"FP{8 * device.float_bytes}, {device.int8_flops / 1e12:.4g} TOPS in INT8, "
        f"{device.bandwidth / 1e9:.4g} GB/s",
        *(f"  {remark}" for remark in device.remarks),
    ]
    if device.origin == "datasheet":
        lines.append(
            "projected: for each layer the larger of FLOPs at the peak rate and bytes at the full "
            "bandwidth; a real engine is slower"
        )
    else:
        lines.append(
            f"measured: medians of {RUNS} runs; layers under the profiler, whose overhead is in "
            "`unattributed`, phases without it"
        )
    if profile.caption_tokens:
        lines.insert(
            2,
            f"prompt: {profile.prompt_tokens} tokens; caption: {profile.caption_tokens} tokens, "
            "each decoded with the prefill's cache; cache at the caption's end: "
            f"{profile.cache_bytes / 1e6:.2f} MB",
        )
    for line in lines:
        say(console, line)


def _kind(profile: Profile) -> str:
    return "projected" if profile.device.origin == "datasheet" else "measured"
