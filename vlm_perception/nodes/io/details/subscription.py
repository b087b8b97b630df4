# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The reader's side of frames on demand: asks for the detail of a frame, and waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.steps import step
from vlm_perception.messages.tables import DETAIL
from vlm_perception.msg import FrameDetail, FrameRequest
from vlm_perception.nodes.base.diagnostics import Meter, milliseconds
from vlm_perception.nodes.base.publishers import Advice, Publishers
from vlm_perception.nodes.io.details.topics import detail_topic, want_topic
from vlm_perception.nodes.io.qos import overridable, results, subscribe
from vlm_perception.perception.details import Details, FrameKey, Kind, key_of, own_tower
from vlm_perception.types import Embedding

WITHIN_S = 0.1
"""How long a frame's detail is waited for. By then there are newer, more current frames."""
VIEWS_WITHIN_S = 1.0
"""The same, where it is made of the frame's image first: that takes some milliseconds to tens of
them, in a thread that gives way to the encoder."""
FEW, LASTING_S = 5, 1.0
"""More frames in a row without detail, for longer than that, are a fault. After as many without any
answer, even a late one, details are requested but not waited for: other cameras would wait, too."""
REMEMBERED = 16
"""Frames whose answers may still arrive after the wait for them has ended."""
ADVICE = Advice(
    absent=(
        "start a vision_encoder of this version there; a recording of embeddings does not contain "
        "what the language model reads: play its images to a vision_encoder instead"
    ),
    unheard="see what vision_encoder reports on /diagnostics, and give it more CPU",
    foreign="remap `embedding` to the topic of a vision_encoder of this version",
    crowded="stop all but one vision_encoder, or give each camera its own namespace",
)


@dataclass
class _Wanted:
    """A frame's detail that a thread is waiting for."""

    over: threading.Event = field(default_factory=threading.Event)
    """Set when it has come, or will not."""
    message: Any = None
    waiting: int = 0


class DetailInput:
    """Gets the details of a topic of embeddings; for any thread but the executor's."""

    def __init__(self, node: Any, topic: str, kind: Kind = Kind.MODEL) -> None:
        """Advertise what is wanted, and listen to answers from now on.

        Discovery takes up to a second; done at activation, a restarted node would have no detail
        for that time.

        Args:
            node: the PerceptionNode that reads.
            topic: of the embeddings, after remapping.
            kind: what of a frame is wanted.
        """
        self._node, self._topic = node, detail_topic(topic, kind)
        self._kind = kind
        self._lock = threading.Lock()
        self._wanted: dict[FrameKey, _Wanted] = {}
        self._given_up: deque[FrameKey] = deque(maxlen=REMEMBERED)
        self._run_id = ""
        self._open = False
        self._details: Details | None = None
        self._what, self._within_s = "patch tokens", WITHIN_S
        self._came = Meter()
        self._missing = self._in_a_row = self._unanswered = self._ignored = 0
        self._first_missing_s = 0.0
        self._profile = results(2)
        self._publishers = Publishers(node, self._topic, FrameDetail, self._profile, ADVICE)
        self._requests = node.create_lifecycle_publisher(
            FrameRequest,
            want_topic(topic, kind),
            results(4),
            qos_overriding_options=overridable(),
        )
        subscribe(node, FrameDetail, self._topic, self._on_detail, self._profile)

    def start(self, manifest: Manifest) -> None:
        """Take answers about a bundle's frames."""
        self._details = Details(manifest, self._kind)
        self._what, self._within_s = _wait_for(self._kind, manifest)
        self._in_a_row = self._unanswered = 0
        self._open = True
        self._came.restart()

    def stop(self) -> None:
        """Stop; threads that wait learn at once that nothing arrives."""
        with self._lock:
            self._open = False
            for wanted in self._wanted.values():
                wanted.over.set()
        self._publishers.close()

    def whole(self, embedding: Embedding, *, patient: bool = True) -> Embedding | None:
        """Return the embedding with what is read of the frame.

        Args:
            embedding: returned as it is where that was sent along.
            patient: whether to wait also where the last ones had no answer at all.

        Returns:
            None when the detail did not come in time or cannot be used, or the node stops.
        """
        details = self._details
        if details is None or not details.missing(embedding):
            return embedding
        frame, began = key_of(embedding), time.monotonic()
        within_s = self._within_s if patient or self._unanswered <= FEW else 0.0
        with self._wanting(frame) as wanted:
            with step("waiting for the detail of a frame"):
                wanted.over.wait(within_s)
            message = wanted.message
        if message is None:
            self._note_missing()
            return None
        self._came.add(time.monotonic() - began)
        self._in_a_row = 0
        try:
            return details.put_back(embedding, DETAIL.read(message))
        except VlmPerceptionError as error:
            self._node.warnings.add(
                "bad_detail", f"the detail of a frame on {self._topic} was not used: {error}"
            )
            return None

    def blocking_issue(self) -> str:
        """Say that key frames cannot be analysed, with cause and remedy; empty: they can."""
        lasted_s = time.monotonic() - self._first_missing_s
        if self._in_a_row <= FEW or lasted_s <= LASTING_S:
            return ""
        return f"{self._in_a_row} key frames in a row cannot be analysed: {self.cause()}"

    @property
    def in_a_row(self) -> int:
        """How many of the last frames came without."""
        return self._in_a_row

    def cause(self) -> str:
        """Say why what is wanted of a frame does not come, with a remedy."""
        return (
            f"the {self._what} of a frame were requested but did not arrive on {self._topic} "
            f"within {self._within_s:g} s: {self._publishers.cause()}"
        )

    def figures(self) -> Mapping[str, str]:
        """Return what the diagnostics show."""
        if self._kind is Kind.PATCHES:
            return {
                "patches": str(self._came.total),
                "patches_p95_ms": milliseconds(self._came.percentile(95)),
                "patches_missing": str(self._missing),
            }
        return {
            "details": str(self._came.total),
            "detail_p95_ms": milliseconds(self._came.percentile(95)),
            "details_missing": str(self._missing),
            "details_ignored": str(self._ignored),
        }

    @contextmanager
    def _wanting(self, frame: FrameKey) -> Iterator[_Wanted]:
        """Request a frame, unless it has been requested already."""
        with self._lock:
            asked = frame in self._wanted
            wanted = self._wanted.setdefault(frame, _Wanted())
            wanted.waiting += 1
            self._run_id = frame[0]
            if not self._open:
                wanted.over.set()
        try:
            if not asked:
                self._requests.publish(FrameRequest(run_id=frame[0], sequence=frame[1]))
            yield wanted
        finally:
            with self._lock:
                wanted.waiting -= 1
                if not wanted.waiting:
                    del self._wanted[frame]
                if wanted.message is None:
                    self._given_up.append(frame)

    def _note_missing(self) -> None:
        with self._lock:
            if self._open:
                if not self._in_a_row:
                    self._first_missing_s = time.monotonic()
                self._missing += 1
                self._in_a_row += 1
                self._unanswered += 1

    def _on_detail(self, message: Any) -> None:
        if not self._open:
            return
        frame = str(message.run_id), int(message.sequence)
        with self._lock:
            wanted, late, run_id = self._wanted.get(frame), frame in self._given_up, self._run_id
            if wanted is not None or late:
                self._unanswered = 0
            if wanted is not None:
                wanted.message = message
                wanted.over.set()
                return
            self._ignored += 1
        # Others may have asked for a frame of the same run.
        if not late and run_id and frame[0] != run_id:
            self._node.warnings.add(
                "foreign_detail",
                f"a frame's detail on {self._topic} was ignored: it belongs to run "
                f"{frame[0][:8]!r}, but the embeddings belong to run {run_id[:8]!r}; "
                f"{ADVICE.crowded}",
            )


def _wait_for(kind: Kind, manifest: Manifest) -> tuple[str, float]:
    """What comes of a frame, and for how many seconds it is waited for."""
    if kind is Kind.PATCHES:
        return "patch embeddings", VIEWS_WITHIN_S
    if kind is Kind.IMAGE:
        return "pixels", VIEWS_WITHIN_S
    if own_tower(manifest) is not None:
        return "views of the image", VIEWS_WITHIN_S
    return "patch tokens", WITHIN_S
