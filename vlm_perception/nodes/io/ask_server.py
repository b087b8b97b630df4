# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The service ~/ask and the action ~/describe of the language node."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse

from vlm_perception.action import Describe
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.steps import Work
from vlm_perception.messages.codec import time_message
from vlm_perception.messages.ros import ROS
from vlm_perception.nodes.base.diagnostics import Meter, milliseconds
from vlm_perception.nodes.io.camera_choice import chosen_camera
from vlm_perception.nodes.io.qos import requests, results
from vlm_perception.nodes.process.niceness import give_way
from vlm_perception.perception.reasoning.question_answering import Asker, AskError, Description
from vlm_perception.srv import Ask
from vlm_perception.types import Embedding

GOALS_TOLD = 5
"""Goals at once that end with a sentence; more are rejected, which costs no thread."""
UNKNOWN = -1.0
"""Confidence of an answer whose model does not say how probable it is."""
ENDING_S = 0.02
"""Between attempts to end what a cancelled description waits for."""
INACTIVE = "the node is not active; configure and activate it first"
CANCELLED = "it was cancelled; send the goal again"
FEEDBACK_KEPT = 100
"""Pieces of a text that wait for a slow client; by default ten would, less than a sentence."""


class Asking:
    """Answers in the threads that the executor gives to services and goals.

    While the node is not active, each answer says so.
    """

    def __init__(self, node: Any, newest: Mapping[str, Callable[[], Embedding]]) -> None:
        """Offer the service and the action.

        Args:
            node: a PerceptionNode whose settings have max_caption_tokens, answer_timeout and
                niceness.
            newest: by camera what gives its newest frame, or raises VlmPerceptionError with why
                there is none; the only camera may have no name.
        """
        self._node, self._newest = node, newest
        self._asker: Asker | None = None
        self._without = INACTIVE
        """Why there is no asker, if there is none."""
        self._digest = ""
        self._answers, self._descriptions = Meter(), Meter()
        self._stopping = threading.Event()
        self._describing = threading.Lock()
        self._written: tuple[Any, Work] | None = None
        """The goal whose description is being written, and that work."""
        self._goals, self._goals_lock = 0, threading.Lock()
        node.create_service(Ask, "~/ask", self._ask, qos_profile=requests())
        self._server = ActionServer(
            node,
            Describe,
            "~/describe",
            self._describe,
            goal_callback=self._respond,
            handle_accepted_callback=self._accepted,
            goal_service_qos_profile=requests(),
            result_service_qos_profile=requests(),
            cancel_service_qos_profile=requests(),
            cancel_callback=self._cancel,
            feedback_pub_qos_profile=results(FEEDBACK_KEPT),
        )

    def start(self, asker: Asker | None, digest: str, without: str = "") -> None:
        """Answer from now on with this model; where there is none, say why."""
        self._stopping.clear()
        self._without = without
        self._digest, self._asker = digest, asker

    def stop(self, timeout_s: float) -> None:
        """Stop answering, end the description that is being written and wait for it."""
        self._asker, self._without = None, INACTIVE
        self._stopping.set()
        if self._describing.acquire(timeout=timeout_s):
            self._describing.release()

    def close(self) -> None:
        """Take the action away, for the end of the node."""
        self._server.destroy()

    def figures(self) -> Mapping[str, str]:
        """Return what the diagnostics show."""
        return {
            "answers": str(self._answers.total),
            "answer_p95_ms": milliseconds(self._answers.percentile(95)),
            "descriptions": str(self._descriptions.total),
        }

    def _ask(self, request: Any, response: Any) -> Any:
        began = time.monotonic()
        settings = self._node.settings
        give_way(settings.niceness)  # This thread ends with the answer.
        try:
            asker, newest = self._open(request.camera)
            with self._node.watchdog.watch("ask"):
                answer = asker.ask(
                    newest,
                    request.question,
                    list(request.choices),
                    timeout=request.timeout or settings.answer_timeout,
                    max_tokens=settings.max_caption_tokens,
                )
        except VlmPerceptionError as error:
            response.message = str(error)
            self._node.warnings.add("question_refused", f"no answer on ~/ask: {error}")
        except Exception as error:
            response.message = self._node.internal_error(error, "no answer on ~/ask")
        else:
            response.success = True
            response.answer = answer.text
            response.confidence = UNKNOWN if answer.confidence is None else answer.confidence
            response.probabilities = array("f", answer.probabilities)
            response.stamp = time_message(answer.stamp_ns, ROS)
            response.vocabulary_version = answer.vocabulary_version
            self._answers.add(time.monotonic() - began)
        response.bundle_digest = self._digest
        response.processing_time = time.monotonic() - began
        return response

    def _open(self, camera: str) -> tuple[Asker, Callable[[], Embedding]]:
        """Return who answers about this camera and its newest frame, if that can be done now."""
        newest = self._newest[chosen_camera(self._node, self._newest, camera)]
        asker = self._asker
        if asker is None:
            raise AskError(self._without)
        return asker, newest

    def _respond(self, _: Any) -> GoalResponse:
        if self._goals < GOALS_TOLD:
            return GoalResponse.ACCEPT
        self._warn(f"{GOALS_TOLD} goals are being processed; send it again in a moment")
        return GoalResponse.REJECT

    def _cancel(self, goal: Any) -> CancelResponse:
        """Accept it; rclpy notes the cancellation only after this."""
        threading.Thread(target=self._end, args=(goal,), name="cancel", daemon=True).start()
        return CancelResponse.ACCEPT

    def _end(self, goal: Any) -> None:
        """End what a cancelled description waits for, which may be a token of a slow server."""
        while (written := self._written) is not None and written[0] is goal:
            if goal.is_cancel_requested:
                written[1].end_step()
            time.sleep(ENDING_S)

    def _accepted(self, goal: Any) -> None:
        with self._goals_lock:
            self._goals += 1
        goal.execute()

    def _describe(self, goal: Any) -> Any:
        result = Describe.Result(time_to_first_token=-1.0, bundle_digest=self._digest)
        try:
            self._serve(goal, result)
        except Exception:
            # Nothing can be published any more when the process ends, and no client is left.
            if self._node.context.ok():
                raise
            with suppress(Exception):
                goal.abort()  # Of a goal without an end, rclpy would complain.
        finally:
            with self._goals_lock:
                self._goals -= 1
        return result

    def _serve(self, goal: Any, result: Any) -> None:
        began = time.monotonic()
        give_way(self._node.settings.niceness)
        if not self._describing.acquire(blocking=False):
            self._refuse(result, "a description is already being written; cancel it or wait")
        else:
            try:
                with self._node.watchdog.watch("describe") as work:
                    self._written = goal, work
                    self._write(goal, result, began)
            except VlmPerceptionError as error:
                if goal.is_cancel_requested:
                    result.message = CANCELLED
                else:
                    self._refuse(result, str(error))
            except Exception as error:
                result.message = self._node.internal_error(error, "no description")
            finally:
                self._written = None
                self._describing.release()
        result.processing_time = time.monotonic() - began
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.success:
            goal.succeed()
        else:
            goal.abort()

    def _refuse(self, result: Any, sentence: str) -> None:
        result.message = sentence
        self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        self._node.warnings.add("description_refused", f"no description: {sentence}")

    def _write(self, goal: Any, result: Any, began: float) -> None:
        """Write the text into the result, and its pieces as feedback, until it is stopped."""
        request = goal.request
        asker, newest = self._open(request.camera)
        embedding = newest()
        most = int(request.max_tokens) or self._node.settings.max_caption_tokens
        description = asker.describe(embedding, request.instruction, max_tokens=most)
        stamp = time_message(embedding.stamp_ns, ROS)
        result.stamp = stamp
        result.vocabulary_version = embedding.vocabulary_version
        try:
            for delta in () if self._why_stop(goal, description) else description:
                if description.tokens == 1:
                    result.time_to_first_token = time.monotonic() - began
                if delta:
                    feedback = Describe.Feedback(
                        delta=delta, tokens=description.tokens, stamp=stamp
                    )
                    goal.publish_feedback(feedback)
                if self._why_stop(goal, description):
                    break
            result.message = self._why_stop(goal, description)
        finally:
            result.text, result.tokens = description.text, description.tokens
        result.success = not result.message
        self._descriptions.add()

    def _why_stop(self, goal: Any, description: Description) -> str:
        if description.finished:
            return ""
        if self._stopping.is_set():
            return "the node was deactivated or is shutting down; ask again when it is active"
        return CANCELLED if goal.is_cancel_requested else ""
