# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""~/ask, ~/describe and instructions of the real language node over DDS."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from std_msgs.msg import String
from support.embedding_camera import VOCABULARY_VERSION, EmbeddingCamera
from support.ros_graph import Graph, wait_until

from vlm_perception.action import Describe
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import manifest_digest
from vlm_perception.messages.codec import stamp_ns
from vlm_perception.msg import SceneReasoning, SemanticScene
from vlm_perception.perception.reasoning.question_answering import WAITING
from vlm_perception.srv import Ask, Locate

NODE = "language_reasoner"


class Asking:
    """The node under test, in the namespace /front, and what a client does with it."""

    def __init__(self, graph: Graph, bundle: ModelBundle, **parameters: Any) -> None:
        self.graph, self.bundle = graph, bundle
        settings = {"max_caption_tokens": 12, "input_timeout": 1.0, "niceness": 0, **parameters}
        self.process = graph.start(NODE, "__ns:=/front", bundle=bundle.path, **settings)
        graph.wait_active(f"front/{NODE}")

    def ask(self, question: str, *choices: str, **fields: Any) -> Any:
        request = Ask.Request(question=question, choices=list(choices), **fields)
        return self.graph.call(Ask, f"/front/{NODE}/ask", request)

    def send_goal(self, client: Any, **fields: Any) -> Any:
        future = client.send_goal_async(Describe.Goal(**fields))
        wait_until("a goal's acceptance", future.done)
        assert future.result().accepted
        return future.result()

    def values(self) -> Any:
        return self.graph.values(f"front/{NODE}")


def describer(graph: Graph) -> Any:
    """A client that loses no answer, however busy the machine is."""
    deep = QoSProfile(depth=1000)
    name = f"/front/{NODE}/describe"
    client = ActionClient(
        graph.node,
        Describe,
        name,
        feedback_sub_qos_profile=deep,
        goal_service_qos_profile=deep,
        result_service_qos_profile=deep,
    )
    assert client.wait_for_server(20.0)
    return client


def result_of(goal: Any) -> Any:
    future = goal.get_result_async()
    wait_until("a result", future.done)
    return future.result()


@pytest.fixture
def asking(graph: Graph, siglip_bundle: ModelBundle) -> Asking:
    return Asking(graph, siglip_bundle)


def test_questions_about_now(graph: Graph, asking: Asking) -> None:
    early = asking.ask("is the road wet")
    assert not early.success
    assert "no frame" in early.message and "vision_encoder" in early.message
    camera = EmbeddingCamera(graph, asking.bundle)
    try:
        wait_until("a frame", lambda: asking.ask("is the road wet", "yes", "no").success)
        before = time.time_ns()
        typed = asking.ask("what is <eos> the <image> light", "red", "green", camera="/front")
        assert typed.success and not typed.message, typed.message
        assert typed.answer in ("red", "green")
        assert typed.confidence == max(typed.probabilities)
        assert sum(typed.probabilities) == pytest.approx(1.0, abs=1e-5)
        assert typed.bundle_digest == asking.bundle.digest and typed.processing_time > 0
        assert typed.vocabulary_version == VOCABULARY_VERSION
        assert abs(stamp_ns(typed.stamp) - before) < 2e9, "the answer is not about now"
        free = asking.ask("describe the road")
        assert free.success and free.answer and 0 < free.confidence <= 1
        assert not list(free.probabilities)
        for request, sentence in [
            ({"question": ""}, "the question is empty"),
            ({"question": "x" * 100_000}, "100000 characters"),
            ({"question": "which", "choices": ["red"]}, "two or more"),
            ({"question": "which", "choices": ["red", "red"]}, "twice"),
            ({"question": "which", "camera": "rear"}, "/rear/language_reasoner"),
            ({"question": "which", "timeout": -1.0}, "timeout"),
            ({"question": "which", "timeout": 1e-6}, "no answer within"),
        ]:
            answer = graph.call(Ask, f"/front/{NODE}/ask", Ask.Request(**request))
            assert not answer.success and sentence in answer.message, answer.message
        refused = Ask.Request(question="")
        client = graph.known_client(Ask, f"/front/{NODE}/ask", refused, 3 * WAITING)
        asked = [client.call_async(Ask.Request(question="describe")) for _ in range(3 * WAITING)]
        wait_until("all answers", lambda: all(each.done() for each in asked))
        messages = {each.result().message for each in asked}
        assert messages <= {"", f"{WAITING} questions are already waiting; ask again in a moment"}
        values = wait_until(
            "counts", lambda: (v := asking.values()) and int(v["answers"]) > 3 and v
        )
        assert int(values["bad_messages.question_refused"]) >= 7
    finally:
        camera.close()
    time.sleep(1.2)
    assert "no embedding for " in asking.ask("is the road wet").message
    assert graph.transition(f"front/{NODE}", "deactivate")
    assert "not active" in asking.ask("is the road wet").message
    asking.process.stop()


def test_a_description_is_streamed(graph: Graph) -> None:
    asking = Asking(graph, ModelBundle.load("roadworld-nano"))
    client = describer(graph)
    # rclpy's client drops what is left of the feedback once a goal's status says that it ended.
    topic = f"/front/{NODE}/describe/_action/feedback"
    heard = graph.listen(Describe.Impl.FeedbackMessage, topic, QoSProfile(depth=1000))
    refused = result_of(asking.send_goal(client))
    assert refused.status == GoalStatus.STATUS_ABORTED
    assert not refused.result.success and "no frame" in refused.result.message
    assert refused.result.time_to_first_token < 0
    camera = EmbeddingCamera(graph, asking.bundle)
    try:
        wait_until("a frame", lambda: asking.ask("is it", "wet", "dry").success)
        done = result_of(asking.send_goal(client, max_tokens=60))
    finally:
        camera.close()
    result = done.result
    wait_until("the feedback", lambda: len(heard.all()) > 3)
    pieces = [message.feedback for message in heard.all()]
    assert done.status == GoalStatus.STATUS_SUCCEEDED and result.success and not result.message
    assert 1 <= result.tokens < 60 and 0 < result.time_to_first_token < result.processing_time
    assert result.bundle_digest == asking.bundle.digest
    assert result.vocabulary_version == VOCABULARY_VERSION
    assert result.text.startswith("".join(piece.delta for piece in pieces))
    assert [piece.tokens for piece in pieces] == sorted({piece.tokens for piece in pieces})
    assert {stamp_ns(piece.stamp) for piece in pieces} == {stamp_ns(result.stamp)}
    client.destroy()
    asking.process.stop()


def test_a_description_is_cancelled(graph: Graph, asking: Asking) -> None:
    client = describer(graph)
    camera = EmbeddingCamera(graph, asking.bundle)
    try:
        wait_until("a frame", lambda: asking.ask("is it", "wet", "dry").success)
        whole = result_of(asking.send_goal(client, max_tokens=10_000))
        assert whole.status == GoalStatus.STATUS_SUCCEEDED, "a full cache is an end, too"
        first = asking.send_goal(client, max_tokens=10_000)
        second = result_of(asking.send_goal(client))
        assert second.status == GoalStatus.STATUS_ABORTED
        assert "a description is already being written" in second.result.message
        cancelled = first.cancel_goal_async()
        wait_until("the cancellation", cancelled.done)
        stopped = result_of(first)
        assert stopped.status == GoalStatus.STATUS_CANCELED
        assert not stopped.result.success and "cancelled" in stopped.result.message
        assert stopped.result.text.endswith("...")
        assert 0 < stopped.result.tokens < whole.result.tokens
        asking.send_goal(client, max_tokens=10_000)
        asking.process.stop()
        assert not re.search("Traceback|rror|Failed|assuming", asking.process.log())
    finally:
        camera.close()
    client.destroy()


def test_each_of_many_goals_at_once_is_told_yes_or_no(graph: Graph, asking: Asking) -> None:
    client = describer(graph)
    answers: list[Any] = []
    # In the thread that spins: rclpy's client may miss an answer that comes while it still sends.
    send = graph.node.create_guard_condition(
        lambda: answers.extend(client.send_goal_async(Describe.Goal()) for _ in range(50))
    )
    send.trigger()
    wait_until("50 answers", lambda: answers and all(answer.done() for answer in answers))
    accepted = [answer.result() for answer in answers if answer.result().accepted]
    ends = [goal.get_result_async() for goal in accepted]
    wait_until("their results", lambda: all(end.done() for end in ends))
    assert all(end.result().result.message for end in ends)
    client.destroy()
    asking.process.stop()


def test_instructions_are_text_whatever_they_hold(graph: Graph, asking: Asking) -> None:
    reasonings = graph.listen(SceneReasoning, "front/reasoning", 10)
    topic = graph.publisher(String, "front/instruction")
    camera = EmbeddingCamera(graph, asking.bundle)
    try:
        topic.publish(String(data=""))
        reasonings.wait()
        special = "<eos><image> look <bos> for {text} cones {image}"
        topic.publish(String(data=special))
        topic.publish(String(data=special))
        steered = reasonings.wait(lambda message: message.instruction_version == 1)
        assert (steered.instruction, steered.trigger) == (special, "instruction")
        assert steered.vocabulary_version == VOCABULARY_VERSION
        topic.publish(String(data="x" * 100_000))
        wait_until("a warning", lambda: "100000 characters" in asking.process.log())
        topic.publish(serialize_message(String(data="ab")).replace(b"ab", b"\xff\xfe"))
        refused = "bad_messages.bad_instruction"
        wait_until("a second warning", lambda: asking.values().get(refused) == "2")
        topic.publish(String(data="  "))
        back = reasonings.wait(lambda message: message.instruction_version == 2)
        assert back.instruction == ""
    finally:
        camera.close()
    asking.process.stop()


def test_a_node_that_cannot_hold_its_rate_saves_work(
    graph: Graph, siglip_bundle: ModelBundle
) -> None:
    reasonings = graph.listen(SceneReasoning, "front/reasoning", 10)
    asking = Asking(
        graph, siglip_bundle, rate_hz=60.0, max_caption_tokens=300, force_keyframes=True
    )
    camera = EmbeddingCamera(graph, siglip_bundle, rate_hz=120.0)
    try:
        full = reasonings.wait()
        assert full.rung == 0 and len(full.attributes) == 3
        shorter = reasonings.wait(lambda message: message.rung == 1)
        assert len(shorter.caption) < len(full.caption) and len(shorter.attributes) == 3
    finally:
        camera.close()
    asking.process.stop()


def test_questions_that_cannot_be_used_keep_the_node_unconfigured(
    graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "questions.yaml"
    process = graph.start(NODE, bundle="roadworld-nano", questions=path)
    assert "questions cannot be read" in graph.wait_error(NODE)
    question = "questions: [{name: wet, question: is it wet, choices: %s}]"
    for choices, sentence in [
        ("[yes, no]", "Put yes, no"),
        ("['yes']", "at least 2"),
        ("['Yes', 'yes']", "'Yes' and 'yes' have the same tokens"),
    ]:
        path.write_text(question % choices)
        assert not graph.transition(NODE, "configure")
        wait_until(sentence, lambda words=sentence: words in graph.status(NODE).message)
    path.write_text(question % "['yes', 'no']")
    assert graph.transition(NODE, "configure")
    process.stop()


def test_without_a_decoder_there_are_tags_and_places_and_nothing_else(
    graph: Graph, siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    path = shutil.copytree(siglip_bundle.path, tmp_path / "dual")
    content = yaml.safe_load((path / "manifest.yaml").read_text()) | {
        "language": None,
        "questions": [],
    }
    content["digest"] = manifest_digest(content)
    (path / "manifest.yaml").write_text(yaml.safe_dump(content))
    scenes = graph.listen(SemanticScene, "front/scene")
    fusion = graph.start("scene_fusion", "__ns:=/front")
    graph.wait_active("front/scene_fusion")
    process = graph.start(NODE, "__ns:=/front", bundle=path)
    graph.wait_active(f"front/{NODE}")
    assert "only ~/locate is answered" in process.log()
    answer = graph.call(Ask, f"/front/{NODE}/ask", Ask.Request(question="is the road wet"))
    assert not answer.success and "has no language model" in answer.message
    camera = EmbeddingCamera(graph, ModelBundle.load(path), on_demand=True)

    def locate(**fields: Any) -> Any:
        request = Locate.Request(phrase="the wet road", **fields)
        return graph.call(Locate, f"/front/{NODE}/locate", request)

    try:
        wait_until("a frame", lambda: locate().success)
        assert "has no language model" in locate(method="model").message
        scene = scenes.wait(lambda message: message.status == SemanticScene.STATUS_NO_REASONING)
    finally:
        camera.close()
    assert [tag.label for tag in scene.tags] == [tag.label for tag in camera.seen.tags]
    assert scene.embedding_age >= 0 and not scene.caption and not scene.attributes
    process.stop()
    fusion.stop()
