# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the running graph does with a camera: its rates and latencies over a span of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from vlm_perception.common.errors import RunError
from vlm_perception.rosgraph.observer import Observer, Report, decode
from vlm_perception.rosgraph.topic_meter import percentiles
from vlm_perception.rosgraph.topics import DETAIL, EMBEDDING, MEASURED, REASONING, SCENE, Topic

READ = {
    "scene_fusion": (EMBEDDING, REASONING),
    "language_reasoner": (EMBEDDING, DETAIL, SCENE),
}
"""The topics that a node reads beside the camera's."""
PUBLISHED = "published"
"""Key under which video_source counts the frames that it published."""

Percentiles = Mapping[str, float]


class BenchError(RunError):
    """The graph could not be measured; the message says why."""


@dataclass(frozen=True)
class CameraFigures:
    """A latency is from the image's stamp to the arrival in another process."""

    published: int
    published_hz: float
    encoded: int
    language_hz: float
    analyses_hz: float
    full_analysis_ms: float | None
    full_analysis_p95_ms: float | None
    embedding_to_prefill_ms: Percentiles | None
    """Of a key frame, from its embedding's arrival on."""
    scene_hz: float
    capture_to_embedding_ms: Percentiles | None
    capture_to_scene_ms: Percentiles | None
    reasoning_age_ms: Percentiles | None
    """Of a scene's reasoning; None without one."""
    read_kb_s: Mapping[str, float]
    """Kilobytes a second on the topics that a node reads, serialized."""

    @property
    def encoded_share(self) -> float:
        """Frames that arrived as embeddings, of those published in the same time.

        Both ends of that time are known to a frame, so the share is cut at 1.
        """
        return min(1.0, self.encoded / self.published) if self.published else 0.0


class CameraWatch:
    """Watches the topics of one camera, and keeps its scenes for later; a context manager."""

    def __init__(self, namespace: str = "") -> None:
        """Prepare; the camera's topics are in this namespace."""
        self._scenes: list[tuple[int, bytes]] = []
        self.observer = Observer(MEASURED, self._keep, namespace)

    def figures(self, start_ns: int, end_ns: int) -> CameraFigures:
        """What came between two times of the host's clock.

        Raises:
            BenchError: the source did not report what it published.
        """
        observer, seconds = self.observer, (end_ns - start_ns) / 1e9
        embeddings = observer.meters[EMBEDDING].between(start_ns, end_ns)
        scenes = observer.meters[SCENE].between(start_ns, end_ns)
        analyses = [each for each in observer.analyses if start_ns < each.received_ns <= end_ns]
        full = [each.milliseconds for each in analyses if each.is_keyframe]
        published, encoded, rate = _published_and_encoded(observer, start_ns, end_ns)
        return CameraFigures(
            published=published,
            published_hz=rate,
            encoded=encoded,
            language_hz=len(observer.meters[REASONING].between(start_ns, end_ns)) / seconds,
            analyses_hz=len(full) / seconds,
            full_analysis_ms=median(full) if full else None,
            full_analysis_p95_ms=(percentiles(full) or {}).get("p95"),
            embedding_to_prefill_ms=percentiles(
                [each.to_prefill_ms for each in analyses if each.is_keyframe]
            ),
            scene_hz=len({scene.stamp_ns for scene in scenes}) / seconds,
            capture_to_embedding_ms=percentiles([each.latency_ms for each in embeddings]),
            capture_to_scene_ms=percentiles([each.latency_ms for each in scenes]),
            reasoning_age_ms=percentiles(self._reasoning_ages(start_ns, end_ns)),
            read_kb_s={
                node: sum(self._bytes(topic, start_ns, end_ns) for topic in topics) / 1e3 / seconds
                for node, topics in READ.items()
            },
        )

    def _bytes(self, topic: Topic, start_ns: int, end_ns: int) -> int:
        return sum(each.size for each in self.observer.meters[topic].between(start_ns, end_ns))

    def _keep(self, topic: Topic, received_ns: int, data: bytes) -> None:
        """Decoding waits until nothing is measured any more."""
        if topic == SCENE:
            self._scenes.append((received_ns, data))

    def _reasoning_ages(self, start_ns: int, end_ns: int) -> Sequence[float]:
        kept = [data for received_ns, data in self._scenes if start_ns < received_ns <= end_ns]
        ages = [float(decode(SCENE, data).reasoning_age) for data in kept]
        return [1e3 * age for age in ages if age >= 0]


def _published_and_encoded(
    observer: Observer, start_ns: int, end_ns: int
) -> tuple[int, int, float]:
    """Frames that the source counted between two of its reports, embeddings of them, its rate."""
    counts = [
        (report.received_ns, number)
        for report in observer.reports.get("video_source", [])
        if start_ns <= report.received_ns <= end_ns and (number := _count(report)) is not None
    ]
    if len(counts) < 2:
        raise BenchError("video_source did not report how many frames it published")
    (first_ns, first), (last_ns, last) = counts[0], counts[-1]
    arrivals = observer.meters[EMBEDDING].between(start_ns, time.time_ns())
    stamps = {each.stamp_ns for each in arrivals if first_ns < each.stamp_ns <= last_ns}
    return last - first, len(stamps), (last - first) / ((last_ns - first_ns) / 1e9)


def _count(report: Report) -> int | None:
    number = report.number(PUBLISHED)
    return None if number is None else int(number)
