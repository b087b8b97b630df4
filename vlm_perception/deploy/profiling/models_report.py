# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Prints the published models that run, with what they take and the rates to be hoped for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle.memory import PROCESS_BYTES, activation_bytes
from vlm_perception.deploy.profiling.devices import THIS, Device, find_device
from vlm_perception.deploy.profiling.dual_encoder import (
    Parameters,
    count_parameters,
    encoder_layers,
)
from vlm_perception.deploy.profiling.profile import THREADS
from vlm_perception.deploy.tables.models import PublishedModel, models_table
from vlm_perception.outputs.console import say
from vlm_perception.outputs.file import write_figures

COLUMNS = {
    "orin-nano": "Nano\n8",
    "orin-nx": "NX\n16",
    "agx-orin-64": "AGX\n64",
    THIS: "this\nCPU",
}
"""The devices of the table, and how it calls them."""
STORED_BYTES, HELD_BYTES = 2, 4
"""Of a weight: FP16 in a bundle, FP32 in ONNX Runtime."""


@dataclass(frozen=True)
class Row:
    """A model, and what follows from its numbers."""

    name: str
    model: PublishedModel
    parameters: Parameters
    seconds: Mapping[str, float]
    """An image in the vision tower, by the device: the sum of its layers' rooflines."""

    @property
    def bundle_bytes(self) -> int:
        """The weights of its bundle."""
        return STORED_BYTES * self.parameters.all

    @property
    def memory_bytes(self) -> int:
        """What vision_encoder takes with it; its labels are embedded at export."""
        vision = self.model.vision
        activations = activation_bytes(vision.tokens, vision.width)
        return PROCESS_BYTES + HELD_BYTES * self.parameters.vision + activations


def report_models(task: str | None, console: Console, json_file: Path | None) -> None:
    """Print the models for a task, or all of them.

    Raises:
        VlmPerceptionError: the figures cannot be written.
    """
    devices = {name: find_device(name, threads=THREADS) for name in COLUMNS}
    rows = [
        make_row(name, model, devices)
        for name, model in models_table().models.items()
        if task is None or task in model.tasks
    ]
    if rows:
        console.print(_models(rows))
        for row in rows:
            say(console, f"{row.name}: {_origin(row.model)}")
    say(console, "")
    _say_pairs(console, task)
    _say_tasks(console, task)
    say(console, "")
    for line in _remarks(devices):
        say(console, line)
    if json_file is not None:
        write_figures(json_file, as_json(task, rows, devices))


def make_row(name: str, model: PublishedModel, devices: Mapping[str, Device]) -> Row:
    """Project a model onto devices."""
    seconds = {
        key: sum(map(device.roofline_seconds, encoder_layers(model, device.float_bytes)))
        for key, device in devices.items()
    }
    return Row(name, model, count_parameters(model), seconds)


def as_json(task: str | None, rows: list[Row], devices: Mapping[str, Device]) -> dict[str, Any]:
    """All figures, times in milliseconds."""
    table = models_table()
    return {
        "tasks": {name: text for name, text in table.tasks.items() if task in (None, name)},
        "models": [_row_json(row) for row in rows],
        "pairs": {
            name: {**pair.model_dump(), "images_per_prompt": 1}
            for name, pair in table.pairs.items()
            if task is None or task in pair.tasks
        },
        "not_yet": [
            each.model_dump() for each in table.not_yet if task is None or task in each.tasks
        ],
        "devices": {key: device.name for key, device in devices.items()},
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        **row.model.model_dump(),
        "parameters": {"vision": row.parameters.vision, "text": row.parameters.text},
        "tokens_per_image": row.model.vision.tokens,
        # There is no language model.
        "images_per_prompt": 0,
        "kv_bytes_per_image": 0,
        "bundle_bytes": row.bundle_bytes,
        "memory_bytes": row.memory_bytes,
        "projected": {
            key: {"ms": 1e3 * seconds, "hz": 1 / seconds} for key, seconds in row.seconds.items()
        },
    }


def _models(rows: list[Row]) -> Table:
    title = "Published models; images a second are projected, encoder alone"
    # As narrow as it can be: it is to fit into 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    heads = ("params\nM", "image/\npatch", "tokens", "file\nGB", "RAM\nGB")
    for column in (*heads, *COLUMNS.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        vision = row.model.vision
        table.add_row(
            row.name,
            f"{row.parameters.all / 1e6:.0f}",
            f"{vision.image}/{vision.patch}",
            str(vision.tokens),
            f"{row.bundle_bytes / 1e9:.2f}",
            f"{row.memory_bytes / 1e9:.1f}",
            *(f"{1 / row.seconds[key]:.3g}" for key in COLUMNS),
        )
    return table


def _origin(model: PublishedModel) -> str:
    return f"{model.dual}, labels in {model.languages}, licence {model.licence}"


def _say_pairs(console: Console, wanted: str | None) -> None:
    for name, pair in models_table().pairs.items():
        if wanted is None or wanted in pair.tasks:
            say(
                console,
                f"{name}: {pair.dual} with {pair.vlm}, {pair.parameters / 1e6:.0f} M parameters, "
                f"whose own vision tower looks at key frames at {pair.view}x{pair.view} "
                f"({pair.image_tokens} tokens, one image in a prompt); licence {pair.licence}",
            )


def _say_tasks(console: Console, wanted: str | None) -> None:
    table = models_table()
    for task, text in table.tasks.items():
        if wanted in (None, task):
            run = [name for name, model in table.models.items() if task in model.tasks]
            run += [name for name, pair in table.pairs.items() if task in pair.tasks]
            say(console, f"{task}: {text}; {', '.join(run) or 'none yet'}")
    for each in table.not_yet:
        if wanted is None or wanted in each.tasks:
            say(console, f"not yet: {each.vlm} ({', '.join(each.tasks)}) needs {each.needs}")


def _remarks(devices: Mapping[str, Device]) -> list[str]:
    this = devices[THIS]
    return [
        "the models in the table give tags and regions; only the pairs have a language model, for "
        "answers and captions, whose times on this machine `bench language` measures",
        "projected: for each layer the larger of products at the peak rate and bytes at the full "
        f"bandwidth, in FP16 on Jetsons and FP32 here ({this.name}); a real engine is slower",
        this.remarks[-1],
        "file: the weights of a bundle in FP16; tokenizer and golden outputs come on top. RAM: "
        "vision_encoder in ONNX Runtime, estimated. Nano, NX, AGX: Jetson Orin",
        "the table names no commits: a model is fetched as it is that day, and its bundle keeps "
        "the commit (`bundle show`); ORG/NAME@COMMIT takes the same again",
        "`make demo MODEL=NAME` or `vlm-perception export --dual NAME --out DIR` takes a name",
    ]
