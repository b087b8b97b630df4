#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The slow path: newest embedding in, caption and typed answers out, with key-frame anchoring."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from std_msgs.msg import String

from vlm_perception.bundle import DECODER_GRAPH, PROJECTOR_GRAPH, BundleError, ModelBundle
from vlm_perception.msg import SceneReasoning, SemanticScene
from vlm_perception.nodes.asking import Asking
from vlm_perception.nodes.conversions import MessageError, embedding_from, reasoning_message
from vlm_perception.nodes.diagnostics import figure
from vlm_perception.nodes.embedding_input import EmbeddingInput
from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.nodes.lifecycle import PerceptionNode
from vlm_perception.nodes.plans import prepare_plans, why_not_tensorrt
from vlm_perception.nodes.priority import session_gives_way
from vlm_perception.nodes.process import run
from vlm_perception.nodes.qos import newest, overridable, results, subscribe
from vlm_perception.nodes.worker import Worker
from vlm_perception.perception.asking import AskError
from vlm_perception.perception.ladder import Ladder
from vlm_perception.perception.questions import load_questions
from vlm_perception.perception.reasoner import Reasoner
from vlm_perception.types import Embedding, Reasoning, Trigger


@dataclass(frozen=True)
class Arrival:
    """An embedding message and the monotonic time at which it came, in seconds."""

    message: Any
    received_s: float


class LanguageReasonerNode(PerceptionNode[LanguageSettings]):
    """Reasons on the newest embedding, rate_hz times a second at most."""

    def __init__(self, *, alone: bool = False) -> None:
        """Declare parameters and the publisher.

        Args:
            alone: whether the process holds no other node, so that all of it may give way.
        """
        super().__init__("language_reasoner", LanguageSettings)
        self._alone = alone
        self._reasoner: Reasoner | None = None
        self._bundle: ModelBundle | None = None
        self._embeddings: EmbeddingInput | None = None
        self._instructions: Any = None
        self._scenes: Any = None
        self._worker: Worker[Arrival] | None = None
        self._notes: dict[str, str] = {}
        self._dropped_before = 0
        self._sequence = 0
        self._analyses = 0
        self._ladder = Ladder()
        self._newest: Reasoning | None = None
        self._newest_arrival: Arrival | None = None
        self._reasonings = self.create_lifecycle_publisher(
            SceneReasoning, "reasoning", results(), qos_overriding_options=overridable()
        )
        self._asking = Asking(self, self._newest_embedding)

    def load(self) -> None:
        """Load the bundle, compare it with its golden outputs and warm the networks up."""
        settings = self.settings
        bundle = ModelBundle.load(settings.bundle)
        prepare_plans(
            bundle,
            (PROJECTOR_GRAPH, DECODER_GRAPH),
            engine=settings.engine,
            mode=settings.plans,
            logger=self.get_logger(),
        )
        self._notes = why_not_tensorrt(bundle, DECODER_GRAPH, settings.engine, self.get_logger())
        own = load_questions(Path(settings.questions)) if settings.questions else None
        questions = bundle.manifest.questions if own is None else own
        reasoner = Reasoner(
            bundle,
            settings.reasoner_settings(),
            threads=settings.threads,
            run_id=self.run_id,
            questions=questions,
            engine=settings.engine,
        )
        if not reasoner.has_language:
            raise BundleError(
                f"bundle {bundle.manifest.name} has no language model; run without this node, or "
                "use a bundle that was exported with vlm/"
            )
        reasoner.warm_up()
        self._bundle, self._reasoner = bundle, reasoner
        self._sequence = self._analyses = 0
        known = {question.name for question in questions}
        if foreign := set(settings.keep_questions) - known:
            self.get_logger().warning(
                f"keep_questions: nobody asks {', '.join(sorted(foreign))}; the questions are "
                f"{', '.join(sorted(known))}"
            )
        self.get_logger().info(
            f"bundle {bundle.manifest.name} from {bundle.path} is ready in {reasoner.engine_name}"
        )

    def start(self) -> None:
        """Listen to the encoder and to instructions."""
        self._give_way(self.settings.niceness)
        self._ladder = Ladder()
        self._worker = Worker(
            "reason",
            self._reason,
            self.worker_failed,
            self._interval,
            niceness=self.settings.niceness,
        )
        self._worker.start()
        self._embeddings = EmbeddingInput(self, self._on_embedding)
        self._instructions = subscribe(
            self,
            String,
            "instruction",
            self._on_instruction,
            results(),
        )
        self._scenes = subscribe(self, SemanticScene, "scene", self._on_scene, newest(1))
        bundle, reasoner = self._bundle, self._reasoner
        if bundle is not None and reasoner is not None and reasoner.asker is not None:
            self._asking.start(reasoner.asker, bundle.digest)

    def stop(self) -> None:
        """Stop to listen, to reason and to answer."""
        self._asking.stop()
        if self._embeddings is not None:
            self._embeddings.close()
            self._embeddings = None
        if self._instructions is not None:
            self.destroy_subscription(self._instructions)
            self._instructions = None
        if self._scenes is not None:
            self.destroy_subscription(self._scenes)
            self._scenes = None
        if self._worker is not None:
            self._worker.stop()
            self._dropped_before += self._worker.mailbox.dropped
            self._worker = None
        self._newest_arrival = None

    def unload(self) -> None:
        """Let go of the networks."""
        self._reasoner = self._bundle = None

    def close(self) -> None:
        """Stop, unload and take the action away, for the end of the process."""
        super().close()
        self._asking.close()

    def time_jumped(self) -> None:
        """Forget the anchor."""
        reasoner = self._reasoner
        if reasoner is not None:
            reasoner.reset(Trigger.TIME_JUMP)

    def dropped(self) -> int:
        """Return how many embeddings were skipped in favour of newer ones."""
        worker = self._worker
        return self._dropped_before + (worker.mailbox.dropped if worker else 0)

    def obstacle(self) -> str:
        """Return what to say when no embedding comes."""
        silence, embeddings = self.arrivals.silence(), self._embeddings
        if embeddings is None or silence <= self.settings.input_timeout:
            return ""
        return embeddings.silence(silence)

    def figures(self) -> Mapping[str, str]:
        """Return bundle, engine and how often was analysed."""
        bundle, reasoner, newest = self._bundle, self._reasoner, self._newest
        if bundle is None or reasoner is None:
            return {"bundle": self.settings.bundle}
        return {
            "bundle": bundle.manifest.name,
            "bundle_digest": bundle.digest,
            "engine": reasoner.engine_name,
            **self._notes,
            "analyses": str(self._analyses),
            "keyframe_ratio": figure(self._analyses / max(1, self._sequence), 3),
            "drift": figure(newest.drift if newest else None, 4),
            "instruction_version": str(newest.instruction_version if newest else 0),
            "rung": str(self._ladder.rung),
            **self._asking.figures(),
        }

    def _give_way(self, niceness: int) -> None:
        """Let the session do so; the threads that work do it themselves."""
        if self._alone:
            try:
                session_gives_way(niceness)
            except OSError as error:
                self.get_logger().warning(
                    f"the session cannot give way to others ({error}); the encoder may lose pace "
                    "where cores are few"
                )

    def _on_embedding(self, message: Any) -> None:
        self.arrivals.add()
        worker, arrival = self._worker, Arrival(message, time.monotonic())
        if worker is not None:
            self._newest_arrival = arrival
            worker.mailbox.put(arrival)

    def _newest_embedding(self) -> Embedding:
        """Return the newest frame, for a question about now.

        Raises:
            AskError: there is none, or it is no longer the present.
            MessageError: it contradicts itself.
        """
        arrival, embeddings = self._newest_arrival, self._embeddings
        if embeddings is None:
            raise AskError("the node is not active; configure and activate it first")
        silence = self.arrivals.silence()
        if arrival is None or silence > self.settings.input_timeout:
            raise AskError(f"there is no frame to ask about: {embeddings.silence(silence)}")
        return embedding_from(arrival.message)

    def _on_instruction(self, message: Any) -> None:
        reasoner, topic = self._reasoner, self._instructions
        if reasoner is None or topic is None:
            return
        try:
            version = reasoner.set_instruction(message.data)
            self.get_logger().info(f"instruction {version}: {message.data[:200]!r}")
        except ValueError as error:
            self.complaints.add(
                "bad_instruction", f"instruction on {topic.topic_name} was refused: {error}"
            )

    def _on_scene(self, message: Any) -> None:
        """Where the scene says that the paths disagree, the slow one looks again."""
        reasoner = self._reasoner
        if reasoner is not None:
            reasoner.note_conflicts(message.conflicts)

    def _interval(self) -> float:
        return 1.0 / (self.settings.rate_hz * self._ladder.effort.rate)

    def _reason(self, arrival: Arrival) -> None:
        began = time.monotonic()
        message, reasoner, embeddings = arrival.message, self._reasoner, self._embeddings
        if reasoner is None or embeddings is None:
            return
        topic = embeddings.topic
        try:
            embedding = embedding_from(message)
            if not self.time_watch.accepts(embedding.stamp_ns, topic):
                return
            reasoning = reasoner.reason(embedding, self._ladder.rung)
        except MessageError as error:
            self.complaints.add("bad_embedding", f"embedding on {topic} was skipped: {error}")
            return
        except ValueError as error:
            self.complaints.add("refused", f"embedding on {topic} was skipped: {error}")
            return
        elapsed = time.monotonic() - arrival.received_s
        self._reasonings.publish(reasoning_message(reasoning, self._sequence, elapsed))
        self._sequence += 1
        self._analyses += reasoning.is_keyframe
        self._newest = reasoning
        self.results.add(time.monotonic() - arrival.received_s)
        age = self.age_of(embedding.stamp_ns)
        if age is not None:
            self.ages.add(age)
        self._ladder.record(time.monotonic() - began, 1.0 / self.settings.rate_hz)


def main() -> NoReturn:
    """Run the node as a process."""
    run(lambda: LanguageReasonerNode(alone=True))


if __name__ == "__main__":
    main()
