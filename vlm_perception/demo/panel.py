# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo shows while it runs: a live panel in a terminal, else a line a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.table import Table
from rich.text import Text

from vlm_perception.perception.rendering.shown import shown
from vlm_perception.rosgraph.observer import Observer, Report
from vlm_perception.rosgraph.topic_meter import Meter, percentiles
from vlm_perception.rosgraph.topics import EMBEDDING, IMAGE, REASONING, SCENE, Topic
from vlm_perception.types import Attribute, Scene, Status, Tag

NODES: tuple[tuple[str, Topic], ...] = (
    ("video_source", IMAGE),
    ("vision_encoder", EMBEDDING),
    ("language_reasoner", REASONING),
    ("scene_fusion", SCENE),
)
"""Each node and the topic whose messages are its output."""
REFRESH_HZ = 4
LINE_EVERY_S = 1.0
LATENCY_WINDOW_S = 5.0
BAR_WIDTH = 16
MAX_TAGS = 8
STATUS_STYLES = {Status.OK: "black on green", Status.NO_CAMERA: "white on red"}
UNSURE_STYLE = "black on yellow"
NOTHING = "-"


@dataclass(frozen=True)
class NodeRow:
    """One node's figures, as text; a dash where a figure does not exist."""

    name: str
    rate: str
    p50: str
    p95: str
    own_p50: str
    own_p95: str
    dropped: str
    keyframes: str


class Panel:
    """Shows what an observer sees; call `update` often, it draws no more than needed."""

    def __init__(self, observer: Observer, title: str, console: Console) -> None:
        """Prepare.

        Args:
            observer: Whose findings to show.
            title: What is played.
            console: Where to; a terminal gets the live panel, everything else lines.
        """
        self._observer = observer
        self._title = title
        self._console = console
        self._started = time.monotonic()
        self._next_line = self._started + LINE_EVERY_S
        self._live: Live | None = None

    def __enter__(self) -> Panel:
        """Take the terminal."""
        if self._console.is_terminal:
            self._live = Live(
                self.render(), console=self._console, auto_refresh=False, transient=True
            )
            self._live.start()
            self._next_draw = 0.0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Draw when it is time to."""
        now = time.monotonic()
        if self._live is not None:
            if now >= self._next_draw:
                self._live.update(self.render(), refresh=True)
                self._next_draw = now + 1 / REFRESH_HZ
        elif now >= self._next_line:
            self._console.print(self.line(), soft_wrap=True, markup=False, highlight=False)
            self._next_line += LINE_EVERY_S

    def render(self) -> RenderableType:
        """The panel's current state."""
        newest = self._observer.scene()
        scene = newest and shown(newest)
        parts: list[RenderableType] = [_node_table(node_rows(self._observer))]
        if scene is None:
            parts.append(
                Text("waiting for the first scene: the nodes are loading their models", "dim")
            )
        else:
            parts += _scene_parts(scene)
        elapsed = time.monotonic() - self._started
        title = f"[bold]vlm_perception[/bold]  {self._title}  {elapsed:.0f} s"
        return Box(Group(*parts), title=title, subtitle="Ctrl-C ends", border_style="cyan")

    def line(self) -> str:
        """The same in one line."""
        rows = node_rows(self._observer)
        parts = [f"{time.monotonic() - self._started:5.1f} s"]
        parts += [f"{row.name} {row.rate} Hz p50 {row.p50} p95 {row.p95} ms" for row in rows]
        parts.append(f"drops {'/'.join(row.dropped for row in rows)}")
        parts.append(f"key frames {rows[2].keyframes}")
        newest = self._observer.scene()
        if newest is not None:
            scene = shown(newest)
            parts.append(" ".join(filter(None, (scene.status.name, scene.reason))))
            parts.append(", ".join(f"{tag.label} {tag.score:.2f}" for tag in _best(scene.tags)))
            answers = (f"{a.name}={a.value} {_score(a)}".rstrip() for a in scene.attributes)
            parts.append(", ".join(answers))
            parts.append(scene.caption)
        return " | ".join(part for part in parts if part)


def node_rows(observer: Observer) -> list[NodeRow]:
    """The figures of each node: as measured from outside, and as the node reports them."""
    now_ns = time.time_ns()
    rows = []
    for name, topic in NODES:
        meter = observer.meters.get(topic, Meter())
        arrivals = meter.recent(now_ns, LATENCY_WINDOW_S)
        latency = percentiles([arrival.latency_ms for arrival in arrivals if arrival.stamp_ns > 0])
        report = observer.newest_report(name)
        rows.append(
            NodeRow(
                name=name,
                rate=f"{meter.rate_hz(now_ns):.1f}",
                p50=_figure(latency["p50"] if latency else None),
                p95=_figure(latency["p95"] if latency else None),
                own_p50=_shown(report, "latency_p50_ms"),
                own_p95=_shown(report, "latency_p95_ms"),
                dropped=_shown(report, "dropped", digits=0),
                keyframes=str(observer.keyframes()) if topic == REASONING else NOTHING,
            )
        )
    return rows


def _shown(report: Report | None, key: str, digits: int = 1) -> str:
    number = report.number(key) if report is not None else None
    return _figure(number, digits)


def _figure(number: float | None, digits: int = 1) -> str:
    return NOTHING if number is None else f"{number:.{digits}f}"


def _node_table(rows: list[NodeRow]) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    table.add_column("node", ratio=2)
    for heading in (
        "rate Hz",
        "from capture p50 ms",
        "p95 ms",
        "in the node p50 ms",
        "p95 ms",
        "drops",
        "key frames",
    ):
        table.add_column(heading, justify="right", ratio=1)
    for row in rows:
        table.add_row(
            row.name,
            row.rate,
            row.p50,
            row.p95,
            row.own_p50,
            row.own_p95,
            row.dropped,
            row.keyframes,
        )
    return table


def _scene_parts(scene: Scene) -> list[RenderableType]:
    columns = Table.grid(expand=True, padding=(1, 2))
    columns.add_column(ratio=1)
    columns.add_column(ratio=1)
    columns.add_row(_tag_table(scene.tags), _attribute_table(scene.attributes))
    status = Text(f" {scene.status.name} ", STATUS_STYLES.get(scene.status, UNSURE_STYLE))
    status.append(f" {scene.reason}", "default on default")
    parts: list[RenderableType] = [columns, Text(scene.caption or "(no caption yet)", "bold")]
    parts += [Text(f"hazard: {hazard}", "bold red") for hazard in scene.hazards]
    parts += [Text(f"conflict: {conflict}", "yellow") for conflict in scene.conflicts]
    ages = (("embedding", scene.embedding_age), ("reasoning", scene.reasoning_age))
    known = [f"{name} {age * 1e3:.0f} ms old" for name, age in ages if age >= 0]
    if scene.keyframe_age >= 0:
        known.append(f"key frame {scene.keyframe_age:.1f} s old")
    return [*parts, status, Text(", ".join(known), "dim")]


def _best(tags: tuple[Tag, ...]) -> list[Tag]:
    return sorted(tags, key=lambda tag: -tag.score)[:MAX_TAGS]


def _tag_table(tags: tuple[Tag, ...]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("tag")
    table.add_column("")
    table.add_column("score", justify="right")
    for tag in _best(tags):
        table.add_row(Text(tag.label), _bar(tag.score), f"{tag.score:.2f}")
    return table


def _attribute_table(attributes: tuple[Attribute, ...]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("attribute")
    table.add_column("value")
    table.add_column("")
    table.add_column("probability", justify="right")
    for attribute in attributes:
        name, bar = attribute.name.replace("_", " "), _bar(attribute.probability or 0.0)
        table.add_row(Text(name), Text(attribute.value), bar, _score(attribute))
    return table


def _score(attribute: Attribute) -> str:
    return "" if attribute.probability is None else f"{attribute.probability:.2f}"


def _bar(share: float) -> Text:
    filled = round(BAR_WIDTH * min(1.0, max(0.0, share)))
    return Text("━" * filled, "cyan").append("━" * (BAR_WIDTH - filled), "bright_black")
