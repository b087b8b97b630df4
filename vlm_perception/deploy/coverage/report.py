# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Prints what a target cannot run itself, and gives it as JSON."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.coverage.coverage import (
    Finding,
    GraphCoverage,
    Target,
    cover_bundle,
    load_target,
)
from vlm_perception.outputs.console import say
from vlm_perception.outputs.file import write_figures

FALLS_BACK = 1
NODES_SHOWN = 3


def report_coverage(name: str, target: str, console: Console, json_file: Path | None) -> int:
    """Check a bundle against a target and print what falls back.

    Returns:
        0 when the target runs all of it, 1 otherwise.

    Raises:
        VlmPerceptionError: the bundle or the target cannot be used.
    """
    bundle, table = ModelBundle.load(name), load_target(target)
    graphs = cover_bundle(bundle, target)
    console.print(_graphs(f"{bundle.manifest.name} on {table.title}", graphs))
    findings = [finding for graph in graphs for finding in graph.findings]
    if findings:
        console.print(_findings(findings))
    _say(console, table, findings)
    if json_file is not None:
        content = {
            "bundle": bundle.manifest.name,
            "digest": bundle.digest,
            "target": target,
            "native": not findings,
            "graphs": [dataclasses.asdict(graph) for graph in graphs],
        }
        write_figures(json_file, content)
    return FALLS_BACK if findings else 0


def _graphs(title: str, graphs: Sequence[GraphCoverage]) -> Table:
    table = Table(title=title)
    table.add_column("graph")
    for column in ("nodes", "native", "pieces", "findings"):
        table.add_column(column, justify="right")
    for graph in graphs:
        counts = (graph.nodes, graph.native, graph.islands, len(graph.findings))
        table.add_row(graph.graph, *map(str, counts))
    return table


def _findings(findings: Sequence[Finding]) -> Table:
    """One row for each rule and operator of a graph, with the first nodes."""
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.graph, finding.operator, finding.rule].append(finding)
    table = Table(show_lines=True)
    table.add_column("where")
    table.add_column("why, and what to do")
    for (graph, operator, rule), found in groups.items():
        names = ", ".join(each.node or "(no name)" for each in found[:NODES_SHOWN])
        more = f" and {len(found) - NODES_SHOWN} more" if len(found) > NODES_SHOWN else ""
        where = f"{graph}: {operator} ({len(found)})\n{names}{more}"
        table.add_row(Text(where), Text(f"{rule}: {found[0].why}\n{found[0].remedy}"))
    return table


def _say(console: Console, target: Target, findings: Sequence[Finding]) -> None:
    lines = [
        f"{len(findings)} findings; for each of them, {target.elsewhere}"
        if findings
        else "everything runs on this target, according to its documented tables",
        *(f"{each.title}, {each.date}: {each.url}" for each in target.sources.values()),
    ]
    for line in lines:
        say(console, line)
