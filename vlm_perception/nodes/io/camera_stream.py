# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""One camera of the language node: its topics, what is known of its frames, and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import String

from vlm_perception.bundle.manifest import Manifest
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import REASONING
from vlm_perception.msg import SceneReasoning, SemanticScene
from vlm_perception.nodes.base.diagnostics import Meter, Report, figure, pace
from vlm_perception.nodes.io import intra_process
from vlm_perception.nodes.io.details.subscription import DetailInput
from vlm_perception.nodes.io.embedding_subscription import EmbeddingArrival, EmbeddingInput
from vlm_perception.nodes.io.qos import newest, overridable, present, results, subscribe
from vlm_perception.nodes.io.reasoning_subscription import LEASE_S
from vlm_perception.perception.details import Details, Kind
from vlm_perception.perception.reasoning.language_service import InstructionError
from vlm_perception.perception.reasoning.overtaking import OvertakenError
from vlm_perception.perception.reasoning.question_answering import AskError
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.types import Embedding, Reasoning

ASKED_ABOUT = 3
"""Number of frames on which a question is tried, each the newest, if details do not arrive in
time."""


class CameraStream:
    """The embeddings of one camera, the reasonings on them, and what steers these."""

    def __init__(self, node: Any, name: str, reads: Kind) -> None:
        """Make the publisher.

        Args:
            node: a PerceptionNode whose settings have input_timeout.
            name: the camera's namespace below the node's; empty: the node's own.
            reads: what the language model reads of the frames.
        """
        self._node, self.name = node, name
        self._prefix = f"{name}/" if name else ""
        self._reasoner: Reasoner | None = None
        self._manifest: Manifest | None = None
        self._input: EmbeddingInput | None = None
        self._subscriptions: list[Any] = []
        self._arrival: EmbeddingArrival | None = None
        self._newest: Reasoning | None = None
        self._arrivals, self._results, self._ages = Meter(), Meter(), Meter()
        self.sequence = 0
        """Reasonings of this run."""
        self.analyses = 0
        """Those of them that were analyses of their own frame."""
        self.topic = str(node.resolve_topic_name(self._prefix + "embedding"))
        """The embeddings' topic after remapping."""
        self._details = DetailInput(node, self.topic, reads)
        self._patches = DetailInput(node, self.topic, Kind.PATCHES)
        self._patch_details: Details | None = None
        self._available: Callable[[], bool] = lambda: True
        self._publisher = node.create_lifecycle_publisher(
            SceneReasoning,
            self._prefix + "reasoning",
            present(LEASE_S),
            qos_overriding_options=overridable(),
        )

    def load(
        self,
        reasoner: Reasoner | None,
        manifest: Manifest,
        available: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin a new run of reasonings.

        Args:
            reasoner: of the camera's own; None: the bundle has no language model.
            manifest: of the bundle.
            available: whether the language model can be asked now; while it cannot, key frames are
                left out.
        """
        self._available = available
        self._reasoner, self._manifest, self._newest = reasoner, manifest, None
        self.sequence = self.analyses = 0

    def start(self, put: Callable[[EmbeddingArrival], None]) -> None:
        """Listen to the encoder, to instructions and to the scene; put gets each embedding."""
        for meter in (self._arrivals, self._results, self._ages):
            meter.restart()

        def on_embedding(arrival: EmbeddingArrival) -> None:
            self._arrivals.add()
            self._node.arrivals.add()
            self._arrival = arrival
            put(arrival)

        if self._manifest is not None:
            self._patch_details = Details(self._manifest, Kind.PATCHES)
            # Within the process embeddings are handed over whole.
            if not intra_process.is_offered(self.topic):
                self._details.start(self._manifest)
                self._patches.start(self._manifest)
        self._input = EmbeddingInput(self._node, on_embedding, self._prefix + "embedding")
        for message_type, topic, callback, profile in (
            (String, "instruction", self._on_instruction, results()),
            (SemanticScene, "scene", self._on_scene, newest(1)),
        ):
            self._subscriptions.append(
                subscribe(self._node, message_type, self._prefix + topic, callback, profile)
            )

    def stop(self) -> None:
        """Stop to listen, and to wait for what was asked for."""
        if self._input is not None:
            self._input.close()
            self._input = None
        self._details.stop()
        self._patches.stop()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        self._arrival = None

    def unload(self) -> None:
        """Let go of the reasoner."""
        self._reasoner = None

    def time_jumped(self) -> None:
        """Forget the anchor."""
        reasoner = self._reasoner
        if reasoner is not None:
            reasoner.reset()

    def reason(self, arrival: EmbeddingArrival, level: int) -> float | None:
        """Publish a reasoning on an embedding, at the effort of a degradation level.

        Returns:
            The seconds that this took, without waiting for what the language model reads of a key
            frame; None where that did not come, the language model is not available, or a newer
            frame has overtaken this one: of such a frame no trace is left.

        Raises:
            MessageError: it contradicts itself.
            VlmPerceptionError: it holds what no encoder gives, or comes from another bundle.
        """
        reasoner, node, began = self._reasoner, self._node, time.monotonic()
        if reasoner is None:
            return 0.0
        embedding = arrival.read()
        if not node.time_watch.accepts(embedding.stamp_ns, self.topic):
            return 0.0
        node.time_watch.check_clock(
            embedding.stamp_ns, self.topic, arrival.received_s, arrival.spent_s
        )
        decided, waited = reasoner.decide(embedding), 0.0
        if decided.is_keyframe:
            if not self._available():
                return None
            asked = time.monotonic()
            whole = self._details.whole(embedding, patient=False)
            if whole is None:
                return None
            if whole is not embedding:
                embedding, waited = whole, time.monotonic() - asked
        try:
            reasoning = reasoner.conclude(decided, embedding, level)
        except OvertakenError:
            return None
        if waited:
            reasoning = replace(reasoning, stages={"detail": waited, **reasoning.stages})
        self._publish(reasoning, arrival.received_s)
        return time.monotonic() - began - waited

    def overtake(self, arrival: EmbeddingArrival, end: Callable[[], bool]) -> bool:
        """End the analysis of an older frame if this one should be analysed instead.

        Args:
            arrival: the newer frame.
            end: ends what the thread that reasons waits for; returns whether it could.

        Returns:
            Whether an analysis was in hand.

        Raises:
            MessageError: it contradicts itself.
            VlmPerceptionError: it holds what no encoder gives, or comes from another bundle.
        """
        reasoner = self._reasoner
        if reasoner is None or not reasoner.is_analysing:
            return False
        reasoner.overtake(arrival.read(), end)
        return True

    def newest_embedding(self) -> Embedding:
        """Return the newest frame with what the language model reads, for a question about now.

        Raises:
            AskError: there is none, it is no longer the present, or it cannot be read.
            MessageError: it contradicts itself.
        """
        return self.newest_whole()[0]

    def newest_whole(self) -> tuple[Embedding, float]:
        """As `newest_embedding`, and the monotonic time in seconds at which the frame came."""
        return self._newest_with(self._details)

    def newest_patches(self) -> tuple[Embedding, float]:
        """Return the newest frame with its patch embeddings, for a phrase that is looked for now.

        Returns:
            The frame, and the monotonic time in seconds at which it came.

        Raises:
            AskError: there is none, it is no longer the present, or it cannot be read.
            MessageError: it contradicts itself.
        """
        return self._newest_with(self._patches)

    def with_patches(self, arrival: EmbeddingArrival) -> Embedding | None:
        """Return a frame with its patch embeddings and the image as the vision graph sees it.

        For one thread. None where they do not come in time.

        Raises:
            MessageError: it contradicts itself.
            DetailError: it came without its image, within the process.
        """
        whole, details = self._patches.whole(arrival.read(), patient=False), self._patch_details
        return details.ready(whole) if whole is not None and details is not None else None

    def patches_issue(self) -> str:
        """Return why the last frame came without its patch embeddings; empty: it did not."""
        return self._patches.cause() if self._patches.in_a_row else ""

    def beside(self, topic: str) -> str:
        """The name of a topic of this camera."""
        return self._prefix + topic

    def _newest_with(self, details: DetailInput) -> tuple[Embedding, float]:
        for _ in range(ASKED_ABOUT):
            arrival = self._arrival
            if self._input is None:
                raise AskError("the node is not active; configure and activate it first")
            if arrival is None or self._silent():
                raise AskError(f"there is no frame to ask about: {self._silence()}")
            whole = details.whole(arrival.read())
            if whole is not None:
                return whole, arrival.received_s
        raise AskError(f"the newest frames cannot be read: {details.cause()}")

    def blocking_issue(self) -> str:
        """Return what is wrong when no embedding arrives, or none can be read; empty: nothing."""
        if self._input is None:
            return ""
        return self._silence() if self._silent() else self._details.blocking_issue()

    def concern(self) -> str:
        """Return what is wrong when embeddings of several encoders are mixed."""
        embeddings, watch = self._input, self._node.time_watch
        return embeddings.publishers.crowd(watch.mixed(self.topic)) if embeddings else ""

    def figures(self) -> Mapping[str, str]:
        """Return how often was analysed and what the newest reasoning holds."""
        last, reasoner = self._newest, self._reasoner
        return {
            "analyses": str(self.analyses),
            "keyframe_ratio": figure(self.analyses / max(1, self.sequence), 3),
            "drift": figure(last.drift if last else None, 4),
            "overtaken": str(reasoner.overtaken if reasoner else 0),
            "instruction_version": str(last.instruction_version if last else 0),
            **self._details.figures(),
            **self._patches.figures(),
        }

    def report(self, dropped: int) -> Report:
        """Return the camera's own status, for a node that serves several."""
        issue, concern = self.blocking_issue(), self.concern()
        level = DiagnosticStatus.WARN if concern else DiagnosticStatus.OK
        level = DiagnosticStatus.ERROR if issue else level
        values = {
            **pace(self._arrivals, self._results, self._ages),
            "dropped": str(dropped),
            **self.figures(),
        }
        heard = "active" if self._input is not None else "not active"
        return Report(level, issue or concern or heard, values)

    def _publish(self, reasoning: Reasoning, received_s: float) -> None:
        node, elapsed = self._node, time.monotonic() - received_s
        if self._publisher.get_subscription_count() > 0:
            alone = {"sequence": self.sequence, "processing_time": elapsed}
            self._publisher.publish(REASONING.write(reasoning, ROS, **alone))
        self.sequence += 1
        self.analyses += reasoning.is_keyframe
        self._newest = reasoning
        elapsed = time.monotonic() - received_s
        age = node.age_of(reasoning.stamp_ns)
        for meter, value in (
            (self._results, elapsed),
            (node.results, elapsed),
            (self._ages, age),
            (node.ages, age),
        ):
            if value is not None:
                meter.add(value)

    def _silent(self) -> bool:
        return bool(self._arrivals.silence() > self._node.settings.input_timeout)

    def _silence(self) -> str:
        silence, embeddings = self._arrivals.silence(), self._input
        return embeddings.silence(silence) if embeddings is not None else ""

    def _on_instruction(self, message: Any) -> None:
        reasoner, node = self._reasoner, self._node
        if reasoner is None:
            return
        topic = node.resolve_topic_name(self._prefix + "instruction")
        try:
            version = reasoner.set_instruction(message.data)
            node.get_logger().info(f"instruction {version} on {topic}: {message.data[:200]!r}")
        except InstructionError as error:
            node.warnings.add("bad_instruction", f"instruction on {topic} was refused: {error}")

    def _on_scene(self, message: Any) -> None:
        """If the paths disagree in a scene, the slow one analyses again."""
        reasoner = self._reasoner
        if reasoner is not None:
            reasoner.note_conflicts(message.conflicts)
