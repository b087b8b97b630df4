# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the layers of a plan with the graph: in which precision each MatMul really runs.

The inspector's JSON is described in TensorRT's documentation, "Engine Inspector"; version 11 names
inputs and outputs otherwise, the layers alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, TensorProto
from rich.table import Table
from rich.text import Text

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.onnx.fp16_matmuls import PRODUCTS
from vlm_perception.deploy.onnx.graph import OnnxGraph

INT8, FP16, FP32 = "int8", "fp16", "fp32"
# How the inspector writes an element type, in lower case; long forms describe the layout, too.
_WORDS = {INT8: ("int8",), FP16: ("half", "fp16"), FP32: ("float", "fp32")}
_KERNELS = {INT8: ("i8i8", "_i8", "int8", "imma"), FP16: ("f16f16", "_f16", "h16816", "h884")}
# TensorRT names what a plan has for its second set of shapes and those after it so.
_PROFILE = re.compile(r" \[profile (\d+)\]$")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class PlanLayer:
    """One layer of a plan."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    """The graph's nodes that were fused into it."""
    precision: str
    """The narrowest type that it reads, or that its kernel is named after."""
    planned: str
    """The graph's precision for its MatMuls; empty without any."""
    median_ms: float | None

    @property
    def fell_back(self) -> bool:
        """Whether MatMuls run in a wider type than in the graph."""
        order = (INT8, FP16, FP32)
        known = self.planned in order and self.precision in order
        return known and order.index(self.precision) > order.index(self.planned)


@dataclass(frozen=True)
class LayerReport:
    """A plan at one set of shapes."""

    title: str
    layers: tuple[PlanLayer, ...]
    missing: tuple[str, ...]
    """MatMuls of the graph that no layer reports."""


def planned_precisions(graph: OnnxGraph) -> dict[str, str]:
    """In which type each MatMul, Gemm and Conv is to compute, by its name."""
    return {
        node.name: _planned(graph, node)
        for node in graph.nodes
        if node.op_type in PRODUCTS and not graph.is_constant(node)
    }


def _planned(graph: OnnxGraph, node: NodeProto) -> str:
    sources = [graph.producers.get(name) for name in node.input[:2]]
    # Nodes that move data may come between a DequantizeLinear and its MatMul.
    if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
        return INT8
    known = graph.types.get(node.input[0])
    return FP16 if known is not None and known.dtype == TensorProto.FLOAT16 else FP32


def read_layers(
    title: str,
    inspector: str,
    times: Mapping[str, float],
    planned: Mapping[str, str],
    profile: int = 0,
) -> LayerReport:
    """Read the inspector's answer.

    Args:
        title: what the plan is of.
        inspector: its JSON.
        times: median milliseconds by the layer's name.
        planned: of `planned_precisions`.
        profile: which of the plan's sets of shapes; layers of the others are left out.

    Raises:
        ExportError: it is no such JSON, or names no layers.
    """
    try:
        content = json.loads(inspector)
        layers = tuple(
            _layer(each, times, planned)
            for each in content["Layers"]
            if _profile_of(str(each["Name"])) in (None, profile)
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{title}: the inspector's output cannot be read ({error}); build the plan again with "
            "`vlm-perception build`, which asks TensorRT to keep the details"
        ) from error
    seen = {node for layer in layers for node in layer.nodes}
    return LayerReport(title, layers, tuple(name for name in planned if name not in seen))


def _profile_of(layer: str) -> int | None:
    """The set of shapes that a layer is named after; None: it names none."""
    found = _PROFILE.search(layer)
    return int(found[1]) if found else None


def _layer(
    entry: Mapping[str, Any], times: Mapping[str, float], planned: Mapping[str, str]
) -> PlanLayer:
    name = str(entry["Name"])
    nodes = tuple(_NODE.findall(str(entry.get("Metadata", ""))))
    wanted = [planned[node] for node in nodes if node in planned]
    return PlanLayer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        nodes=nodes,
        precision=_precision(entry),
        # The narrowest, as a fused attention has MatMuls of both kinds.
        planned=min(wanted, key=(INT8, FP16, FP32).index, default=""),
        median_ms=times.get(name),
    )


def _precision(entry: Mapping[str, Any]) -> str:
    tactic = str(entry.get("TacticName", "")).lower()
    formats = [str(each.get("Format/Datatype", "")).lower() for each in entry.get("Inputs", ())]
    for precision in (INT8, FP16, FP32):
        kernels = _KERNELS.get(precision, ())
        if any(word in tactic for word in kernels):
            return precision
        if any(word in text for text in formats for word in _WORDS[precision]):
            return precision
    return "other"


def as_table(report: LayerReport) -> Table:
    """The slowest layers first; those that fell back are marked."""
    total = sum(layer.median_ms or 0.0 for layer in report.layers)
    fallen = sum(layer.fell_back for layer in report.layers)
    table = Table(
        title=f"{report.title}: {len(report.layers)} layers, {total:.3f} ms, {fallen} fell back"
    )
    table.add_column("layer")
    table.add_column("nodes", justify="right")
    for column in ("planned", "runs in", "ms"):
        table.add_column(column, justify="right")
    for layer in sorted(report.layers, key=lambda each: -(each.median_ms or 0.0)):
        style = "bold red" if layer.fell_back else ""
        milliseconds = "" if layer.median_ms is None else f"{layer.median_ms:.4f}"
        row = (f"{layer.kind} {layer.name}", str(len(layer.nodes)), layer.planned, layer.precision)
        table.add_row(*(Text(cell, style) for cell in (*row, milliseconds)))
    return table


def as_json(reports: Sequence[LayerReport]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "title": report.title,
            "missing": list(report.missing),
            "layers": [{**vars(layer), "fell_back": layer.fell_back} for layer in report.layers],
        }
        for report in reports
    ]
