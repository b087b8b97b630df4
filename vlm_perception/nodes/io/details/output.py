# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The encoder's side of frames on demand: answers who wants to read one of the newest frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import DETAIL
from vlm_perception.msg import FrameDetail, FrameRequest
from vlm_perception.nodes.io.details.topics import detail_topic, want_topic
from vlm_perception.nodes.io.qos import overridable, results, subscribe
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.perception.details import Details, FrameKey, Kind, RecentFrames
from vlm_perception.types import Embedding

NICENESS = 10
"""How far the thread that answers gives way to the one that encodes, and not to the language path,
which waits for it and gives way more."""


class DetailOutput:
    """Keeps the newest frames and sends what is read of those that are wanted.

    That is made of a frame when it is wanted, in a thread of its own.
    """

    def __init__(self, node: Any, topic: str, kind: Kind = Kind.MODEL) -> None:
        """Advertise the details, and listen to who wants one; discovery takes up to a second.

        Args:
            node: the PerceptionNode that encodes.
            topic: of its embeddings, after remapping.
            kind: what of a frame is sent.
        """
        self._node, self._kind = node, kind
        self._recent = RecentFrames()
        self._details: Details | None = None
        self._worker: Worker[FrameKey] | None = None
        self._sent = self._gone = self._foreign = 0
        self._publisher = node.create_lifecycle_publisher(
            FrameDetail,
            detail_topic(topic, kind),
            results(2),
            qos_overriding_options=overridable(),
        )
        subscribe(node, FrameRequest, want_topic(topic, kind), self._on_want, results(4))

    def start(self, manifest: Manifest) -> None:
        """Answer who wants a frame of a bundle's encoder."""
        self._recent, self._details = RecentFrames(), Details(manifest, self._kind)
        name = f"send_{self._kind.value}"
        self._worker = self._node.worker(name, self._send, niceness=NICENESS)

    def stop(self) -> None:
        """Answer no more."""
        if self._worker is not None:
            self._node.end(self._worker)
            self._worker = None
        self._recent = RecentFrames()

    def keep(self, embedding: Embedding) -> None:
        """Be ready to send the detail of a frame; before its embedding goes out."""
        details = self._details
        # Tokens or views are wanted as soon as a language_reasoner is found; images and patches,
        # which take more memory, are not kept unless somebody may ask for them.
        if details is None or (
            self._kind is not Kind.MODEL and not self._publisher.get_subscription_count()
        ):
            return
        self._recent.put(details.only(embedding))

    def figures(self) -> Mapping[str, str]:
        """Return what the diagnostics show."""
        if self._kind is not Kind.MODEL:
            return {f"{self._kind.value}_sent": str(self._sent)}
        return {
            "details": str(self._sent),
            "wants_gone": str(self._gone),
            "wants_foreign": str(self._foreign),
        }

    def _on_want(self, message: Any) -> None:
        worker, frame = self._worker, (str(message.run_id), int(message.sequence))
        if worker is None:
            return
        if frame[0] != self._node.run_id:
            self._foreign += 1
        elif self._recent.get(frame) is None:
            self._gone += 1
        else:
            # Requests for one frame are answered once; the others wait, at most one for each frame.
            worker.mailbox.put(frame, sender=str(frame[1]))

    def _send(self, frame: FrameKey) -> None:
        embedding, details = self._recent.get(frame), self._details
        if embedding is None or details is None:
            self._gone += 1
            return
        self._publisher.publish(DETAIL.write(details.of(embedding), ROS))
        self._sent += 1
