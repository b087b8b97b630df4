# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""From recordings to a set of images and texts: the frames that are worth a second look.

The folder is one that Hugging Face's `datasets` loads as `imagefolder`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.messages.rosbags import message_types
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.perception.vision.running_spread import cosine_distance
from vlm_perception.replay.pipeline import EngineOptions, Outcome, Pipeline
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.image_messages import COMPRESSED_IMAGE
from vlm_perception.replay.recordings.source import CameraFrame, Source, Span, open_source
from vlm_perception.replay.report.scene_log import line, number, probabilities
from vlm_perception.replay.settings import PipelineSettings, default_parameters, load_settings
from vlm_perception.replay.telling import tell_losses, tell_notes
from vlm_perception.replay.virtual_time import LatencyModel
from vlm_perception.types import Embedding, Frame, Reasoning, Scene

METADATA = "metadata.jsonl"
QUALITY = 95
REMEMBERED = 8
"""Frames that are kept until the language path has come to them."""


@dataclass(frozen=True)
class HarvestOptions:
    """What is taken."""

    recordings: tuple[Path, ...]
    out: Path
    topic: str | None = None
    bundle: str | None = None
    below: float = 0.5
    """Probability of an answer below which its frame is taken."""
    least_distance: float = 0.01
    """Cosine distance from the frame taken before, below which a frame shows nothing new."""


@dataclass(frozen=True)
class _Seen:
    frame: CameraFrame
    embedding: Embedding
    scene: Scene


def run_harvest(options: HarvestOptions, console: Console) -> int:
    """Write images and metadata.jsonl into a new folder.

    Returns:
        The number of images.

    Raises:
        ReplayError: the folder holds a harvest already, or a recording cannot be used.
        OutputError: the folder holds other images, or a recording.
    """
    if (options.out / METADATA).exists():
        raise ReplayError(f"{options.out} already contains a harvest; choose another folder")
    settings = load_settings(default_parameters())
    bundle = ModelBundle.load(options.bundle or settings.bundle)
    sources = [open_source(path, options.topic) for path in options.recordings]
    for source in sources:
        tell_notes((f"{source.name}: {note}" for note in source.notes), console)
    with ResultsFolder(options.out, "harvest", (METADATA, "*.jpg"), options.recordings) as folder:
        if folder.left_over:
            folder.clear()
        taken = _take(options, bundle, settings, sources, folder.work, console)
        folder.publish()
    for source in sources:
        tell_losses(source.losses, console)
    return taken


def _take(
    options: HarvestOptions,
    bundle: ModelBundle,
    settings: PipelineSettings,
    sources: Sequence[Source],
    out: Path,
    console: Console,
) -> int:
    taken = 0
    with (
        (out / METADATA).open("w", encoding="utf-8") as metadata,
        Progress(console=console, transient=True) as progress,
    ):
        for place, source in enumerate(sources):
            pipeline = Pipeline(bundle, settings, LatencyModel(), EngineOptions())
            bar = progress.add_task(source.name, total=source.expected)
            name = f"{place:03d}-{Path(source.name).stem}"
            field = _Field(options, pipeline, name, source.type_name)
            for frame in source.frames(Span()):
                for sample, image in field.take(frame):
                    (out / sample["file_name"]).write_bytes(image)
                    metadata.write(line({**sample, **_origin(source, bundle)}))
                    taken += 1
                progress.advance(bar)
    return taken


class _Field:
    """One recording that is harvested."""

    def __init__(self, options: HarvestOptions, pipeline: Pipeline, name: str, kind: str) -> None:
        self._options, self._pipeline = options, pipeline
        self._name, self._kind = name, kind
        self._seen: deque[_Seen] = deque(maxlen=REMEMBERED)
        self._last: Embedding | None = None

    def take(self, frame: CameraFrame) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Feed a frame; yields what is worth keeping of those so far, with its image file."""
        if frame.pixels is None:
            return
        outcome = self._pipeline.feed(
            Frame(frame.pixels, frame.stamp_ns, frame.frame_id), frame.time_ns
        )
        if outcome.embedding is None or outcome.scene is None:
            return
        self._seen.append(_Seen(frame, outcome.embedding, outcome.scene))
        yield from self._worth_keeping(outcome)

    def _worth_keeping(self, outcome: Outcome) -> Iterator[tuple[dict[str, Any], bytes]]:
        for tick in outcome.ticks:
            reasoning = tick.reasoning
            seen = next((s for s in self._seen if s.frame.stamp_ns == reasoning.stamp_ns), None)
            reasons = _reasons(reasoning, self._options.below)
            if seen is not None and seen.scene.conflicts:
                reasons.append("conflict")
            if seen is None or not reasons or not self._is_new(seen.embedding):
                continue
            self._last = seen.embedding
            yield self._sample(seen, reasoning, reasons), _file(seen.frame, self._kind)

    def _is_new(self, embedding: Embedding) -> bool:
        last = self._last
        least = self._options.least_distance
        return last is None or cosine_distance(last.pooled, embedding.pooled) >= least

    def _sample(self, seen: _Seen, reasoning: Reasoning, reasons: list[str]) -> dict[str, Any]:
        return {
            "file_name": f"{self._name}-{seen.frame.index:06d}.jpg",
            "text": reasoning.caption,
            "reasons": reasons,
            "attributes": {each.name: probabilities(each) for each in reasoning.attributes},
            "tags": {tag.label: number(tag.score) for tag in seen.embedding.tags},
            "conflicts": list(seen.scene.conflicts),
            "stamp": seen.frame.stamp_ns,
            "frame": seen.frame.index,
        }


def _reasons(reasoning: Reasoning, below: float) -> list[str]:
    """Why a frame is worth a second look: what made it a key frame, and what is doubtful."""
    reasons = []
    if reasoning.is_keyframe and reasoning.trigger != "age":
        reasons.append(f"keyframe: {reasoning.trigger}")
    if reasoning.is_keyframe:
        doubtful = [
            each.name
            for each in reasoning.attributes
            if max(each.probabilities, default=1.0) < below
        ]
        reasons += [f"doubtful: {name}" for name in doubtful]
    return reasons


def _file(frame: CameraFrame, kind: str) -> bytes:
    """The image as a JPEG file: as it was recorded where it is one."""
    pixels = frame.pixels
    if kind == COMPRESSED_IMAGE:
        message: Any = message_types().deserialize_cdr(frame.message, COMPRESSED_IMAGE)
        file = bytes(message.data)
        if file.startswith(b"\xff\xd8"):
            return file
    bgr = cv2.cvtColor(np.asarray(pixels), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _origin(source: Source, bundle: ModelBundle) -> dict[str, str]:
    return {"recording": source.name, "topic": source.topic, "bundle_digest": bundle.digest}
