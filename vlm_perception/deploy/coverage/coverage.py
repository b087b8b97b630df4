# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a bundle a target cannot run itself, by the documented tables."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto
from pydantic import BaseModel, ConfigDict, Field

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.coverage import dla_rules, rules
from vlm_perception.deploy.coverage.rules import GRAPH_CHECKS, Operators
from vlm_perception.deploy.onnx.graph import OnnxGraph, load_graph, node_inputs, subgraphs
from vlm_perception.deploy.onnx.tensorrt_graphs import tensorrt_forms
from vlm_perception.deploy.tables import read_table

TENSORRT = "tensorrt"
TARGETS = (TENSORRT, "dla", "openvino-npu")
NODE_CHECKS = rules.NODE_CHECKS | dla_rules.NODE_CHECKS
ISLANDS = "islands_are_within"
# A node that breaks one of these is not there at all; its other violations do not matter.
ABSENT = frozenset({"domain_is_standard", "never", "operator_is_listed"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """The source of a rule."""

    title: str
    url: str
    date: datetime.date


class Rule(_Strict):
    """What a target demands, of all nodes or of those of some operators."""

    id: str
    check: str
    operators: frozenset[str] = frozenset()
    parameters: dict[str, Any] = {}
    why: str
    remedy: str
    source: str


class OperatorGroup(_Strict):
    """Operators that a target has, and the types of their first input."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    domain: str = ""


class Target(_Strict):
    """One file of tables/."""

    title: str
    elsewhere: str
    folds_constants: bool
    """Whether what follows from the weights alone may be of any operator."""
    sources: dict[str, Source]
    operators: tuple[OperatorGroup, ...]
    rules: tuple[Rule, ...] = Field(min_length=1)

    def table(self) -> Operators:
        """The types of each operator's first input."""
        return {
            (group.domain, name): group.types for group in self.operators for name in group.names
        }


@dataclass(frozen=True)
class Finding:
    """A node that the target does not run itself, and why."""

    graph: str
    node: str
    operator: str
    rule: str
    why: str
    remedy: str
    source: str


@dataclass(frozen=True)
class GraphCoverage:
    """One graph on a target."""

    graph: str
    nodes: int
    """Those that are left when the engine has folded the constants."""
    native: int
    islands: int
    """Pieces of neighbouring native nodes; each change costs a copy."""
    findings: tuple[Finding, ...]


def load_target(name: str) -> Target:
    """A target's table.

    Raises:
        ExportError: there is none of that name.
    """
    if name not in TARGETS:
        raise ExportError(f"there is no table for {name!r}; choose one of {', '.join(TARGETS)}")
    return Target.model_validate(read_table(name))


def cover_bundle(bundle: ModelBundle, target: str) -> tuple[GraphCoverage, ...]:
    """Check every graph of a bundle against a target's table.

    For TensorRT these are the graphs that `vlm-perception build` makes of the bundle's.

    Raises:
        ExportError: the target is not known, or a graph cannot be read.
    """
    table = load_target(target)
    graphs = tensorrt_forms(bundle) if target == TENSORRT else _stored(bundle)
    return tuple(cover_graph(graph, table) for graph in graphs)


def _stored(bundle: ModelBundle) -> Iterator[OnnxGraph]:
    return (load_graph(bundle.file(name)) for name in bundle.graphs())


def cover_graph(graph: OnnxGraph, target: Target) -> GraphCoverage:
    """Check one graph against a target's table."""
    table = target.table()
    findings: list[Finding] = []
    foreign: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if target.folds_constants and graph.is_constant(node):
            continue
        found = list(_check_node(graph, node, target, table))
        if found:
            foreign.add(index)
        findings += found
    for rule in target.rules:
        if rule.check in GRAPH_CHECKS:
            for where, detail in GRAPH_CHECKS[rule.check](graph, **rule.parameters):
                findings.append(_finding(graph, target, rule, (where, "graph"), detail))
    executed = {i for i, node in enumerate(graph.nodes) if not graph.is_constant(node)}
    islands = count_islands(graph, executed - foreign)
    for rule in target.rules:
        if rule.check == ISLANDS and islands > rule.parameters["limit"]:
            detail = f"there are {islands}"
            findings.append(_finding(graph, target, rule, ("islands", "graph"), detail))
    return GraphCoverage(
        graph.name, len(executed), len(executed - foreign), islands, tuple(findings)
    )


def _check_node(
    graph: OnnxGraph, node: NodeProto, target: Target, table: Operators
) -> Iterator[Finding]:
    """The rules that a node breaks, and those that its branches break."""
    for rule in target.rules:
        if rule.check not in NODE_CHECKS or (rule.operators and node.op_type not in rule.operators):
            continue
        detail = NODE_CHECKS[rule.check](graph, node, table, **rule.parameters)
        if detail is not None:
            yield _finding(graph, target, rule, (node.name, node.op_type), detail)
            if rule.check in ABSENT:
                break
    for body in subgraphs(node):
        inner = _open(graph, body)
        for each in inner.nodes:
            yield from _check_node(inner, each, target, table)


def _open(graph: OnnxGraph, body: onnx.GraphProto) -> OnnxGraph:
    """A branch as a graph of its own, which sees the weights around it."""
    model = onnx.ModelProto(
        ir_version=graph.model.ir_version, opset_import=graph.model.opset_import, graph=body
    )
    own = {tensor.name for tensor in body.initializer}
    used = {name for node in body.node for name in node_inputs(node)} - own
    model.graph.initializer.extend(
        tensor for name, tensor in graph.initializers.items() if name in used
    )
    return OnnxGraph(model, name=graph.name)


def _finding(
    graph: OnnxGraph, target: Target, rule: Rule, node: tuple[str, str], detail: str
) -> Finding:
    return Finding(
        graph=graph.name,
        node=node[0],
        operator=node[1],
        rule=rule.id,
        why=f"{rule.why} ({detail})",
        remedy=rule.remedy,
        source=target.sources[rule.source].url,
    )


def count_islands(graph: OnnxGraph, native: set[int]) -> int:
    """How many pieces a target would cut the native nodes of a graph into.

    Nodes are of one piece when they are joined by native nodes only and no path between them
    leaves the target: a piece must run as a whole.
    """
    place = {name: i for i, node in enumerate(graph.nodes) for name in node.output}
    depth: dict[int, int] = {}
    piece: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        if graph.is_constant(node):
            continue
        before = {place[name] for name in node_inputs(node) if place.get(name) in depth}
        changes = {i: (i in native) != (index in native) for i in before}
        depth[index] = max((depth[i] + changes[i] for i in before), default=0)
        if index in native:
            piece[index] = index
            for i in before & native:
                if depth[i] == depth[index]:
                    _join(piece, i, index)
    return len({_root(piece, index) for index in piece})


def _root(piece: dict[int, int], index: int) -> int:
    while piece[index] != index:
        index = piece[index]
    return index


def _join(piece: dict[int, int], one: int, other: int) -> None:
    piece[_root(piece, one)] = _root(piece, other)
