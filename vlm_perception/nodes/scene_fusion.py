#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Joins the fast and the slow path: what is known, how old it is, how far it may be trusted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_reader import ImageReader
from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import REASONING, SCENE
from vlm_perception.msg import SemanticScene
from vlm_perception.nodes.base.diagnostics import Meter, figure, milliseconds
from vlm_perception.nodes.base.lifecycle import NodeSettings, PerceptionNode
from vlm_perception.nodes.base.parameters import CONFIGURE, setting
from vlm_perception.nodes.io.embedding_subscription import EmbeddingArrival, EmbeddingInput
from vlm_perception.nodes.io.images.camera_monitor import CameraTap
from vlm_perception.nodes.io.images.image_settings import ImageSettings
from vlm_perception.nodes.io.images.image_subscription import COMPRESSED, RAW
from vlm_perception.nodes.io.qos import overridable, results, watched
from vlm_perception.nodes.io.reasoning_subscription import ReasoningInput
from vlm_perception.nodes.io.shown.detections_output import DetectionOutput
from vlm_perception.nodes.io.shown.locations_subscription import LocationsInput
from vlm_perception.nodes.io.shown.visualization_output import markers, overlay
from vlm_perception.nodes.io.vocabulary_subscription import VocabularyInput
from vlm_perception.nodes.process.errors import guarded
from vlm_perception.nodes.process.runner import run
from vlm_perception.nodes.process.ticker import Ticker
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.perception.fusion.rules import Contradiction, Hazard
from vlm_perception.perception.fusion.scene import FusionSettings, SceneFusion
from vlm_perception.perception.rendering.markers import DEPTH
from vlm_perception.types import LocatedObjects, Scene, Status

LOOK_S = 0.05
"""Between two looks at whether something is missing."""
LEASE_S = 0.4
"""Liveliness lease: subscribers learn of a silence this long; heartbeats are more frequent."""
ASK_S = 0.5
"""Between two looks at why it is."""
SILENT = (Status.NO_CAMERA, Status.NO_EMBEDDING)


@dataclass(frozen=True)
class FusionNodeSettings(ImageSettings, NodeSettings):
    """Parameters of scene_fusion."""

    stale_after: float = setting(
        FusionSettings.stale_after,
        "Age of the newest reasoning in seconds from which a scene is STALE_REASONING; sooner when "
        "a faster stream of reasonings stops.",
        minimum=0.05,
        maximum=3600.0,
        change=CONFIGURE,
    )
    hazards: tuple[str, ...] = setting(
        (),
        "Hazards: a list of 'label' or 'label | attribute=value'. A hazard is present while the "
        "label is tagged or a fresh answer has the value.",
        change=CONFIGURE,
        check=lambda lines: [Hazard.parse(line) for line in lines],
    )
    contradictions: tuple[str, ...] = setting(
        (),
        "Contradictions between the two paths: a list of 'attribute=value | label'.",
        change=CONFIGURE,
        check=lambda lines: [Contradiction.parse(line) for line in lines],
    )
    conflict_frames: int = setting(
        FusionSettings.conflict_frames,
        "Number of consecutive embeddings that must contradict an answer to make a conflict, which "
        "triggers a key frame.",
        minimum=1,
        maximum=1000,
        change=CONFIGURE,
    )
    heartbeat_hz: float = setting(
        4.0,
        "Scenes published per second while no embedding arrives.",
        minimum=4.0,
        maximum=30.0,
        change=CONFIGURE,
    )
    image_transport: str = setting(
        RAW,
        "Which camera topic to read for the overlay, and to monitor the camera while no embedding "
        "arrives: `image` (raw) or `image/compressed`.",
        choices=(RAW, COMPRESSED),
        change=CONFIGURE,
    )
    marker_depth: float = setting(
        DEPTH,
        "Distance in metres from the camera at which scene/markers are drawn, because an image has "
        "no depth.",
        minimum=0.1,
        maximum=1000.0,
    )
    overlay_hz: float = setting(
        10.0, "Maximum number of overlay images per second.", minimum=0.1, maximum=60.0
    )
    input_timeout: float = setting(
        2.0,
        "Seconds without an embedding after which the scene's status reports it; sooner when "
        "a faster stream of embeddings stops.",
        minimum=0.1,
        maximum=3600.0,
    )


@dataclass(frozen=True)
class ReasoningArrival:
    """A reasoning message and the monotonic time at which it came, in seconds."""

    message: Any
    received_s: float


class SceneFusionNode(PerceptionNode[FusionNodeSettings]):
    """Makes a scene from each embedding and the newest reasoning."""

    def __init__(self, *, namespace: str = "") -> None:
        """Declare parameters and publishers; the namespace is as PerceptionNode takes it."""
        super().__init__("scene_fusion", FusionNodeSettings, namespace=namespace)
        self._lock = threading.Lock()
        self._fusion: SceneFusion | None = None
        self._tap: CameraTap | None = None
        self._embeddings: EmbeddingInput | None = None
        self._reasoning_input: ReasoningInput | None = None
        self._vocabulary: VocabularyInput | None = None
        self._locations: LocationsInput | None = None
        self._asked_s = float("-inf")
        self._no_embedding = self._no_image = ""
        self._heart: Ticker | None = None
        self._worker: Worker[EmbeddingArrival] | None = None
        self._painter: Worker[Scene] | None = None
        self._reader = ImageReader()
        self._reasonings: deque[ReasoningArrival] = deque(maxlen=16)
        self._dropped_before = 0
        self._heartbeats = 0
        self._newest: Scene | None = None
        self._published_s = 0.0
        self._latencies: dict[str, Meter] = {}
        self._scenes = self.create_lifecycle_publisher(
            SemanticScene, "scene", watched(LEASE_S), qos_overriding_options=overridable()
        )
        self._markers = self.create_lifecycle_publisher(
            MarkerArray, "scene/markers", results(), qos_overriding_options=overridable()
        )
        self._overlays = self.create_lifecycle_publisher(
            Image, "scene/overlay", results(2), qos_overriding_options=overridable()
        )
        self._detections = DetectionOutput(self)

    def load(self) -> None:
        """Begin a new run of scenes."""
        settings = self.settings
        self._fusion = SceneFusion(
            FusionSettings(
                stale_after=settings.stale_after,
                hazards=tuple(Hazard.parse(line) for line in settings.hazards),
                contradictions=tuple(Contradiction.parse(line) for line in settings.contradictions),
                conflict_frames=settings.conflict_frames,
            ),
            run_id=self.run_id,
        )
        self.get_logger().info(f"reasonings are stale after {settings.stale_after:g} s")

    def start(self) -> None:
        """Subscribe to both paths and start the heartbeat timer."""
        self._tap = CameraTap(self, self.settings.image_transport)
        self._published_s = time.monotonic()
        self._newest = None
        self._worker = self.worker("fuse", self._fuse)
        self._painter = self.worker("paint", self._paint, lambda: 1.0 / self.settings.overlay_hz)
        self._embeddings = EmbeddingInput(self, self._on_embedding)
        self._reasoning_input = ReasoningInput(self, self._on_reasoning, self._on_presence)
        hazards = tuple(Hazard.parse(line) for line in self.settings.hazards)
        self._vocabulary = VocabularyInput(self, hazards)
        self._locations = LocationsInput(self)
        self._heart = Ticker(self, "heartbeat", LOOK_S, guarded(self, self._heartbeat))

    def stop(self) -> None:
        """Stop to listen and to publish."""
        if self._heart is not None:
            self._heart.close()
            self._heart = None
        if self._embeddings is not None:
            self._embeddings.close()
            self._embeddings = None
        if self._reasoning_input is not None:
            self._reasoning_input.close()
            self._reasoning_input = None
        if self._vocabulary is not None:
            self._vocabulary.close()
            self._vocabulary = None
        if self._locations is not None:
            self._locations.close()
            self._locations = None
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if self._worker is not None:
            self.end(self._worker)
            self._dropped_before += self._worker.mailbox.dropped
            self._worker = None
        if self._painter is not None:
            self.end(self._painter)
            self._painter = None

    def unload(self) -> None:
        """Forget the run."""
        self._fusion = None

    def time_jumped(self) -> None:
        """Forget what was known before the jump."""
        if self._locations is not None:
            self._locations.forget()
        with self._lock:
            self._reasonings.clear()
            if self._fusion is not None:
                self._fusion.reset()

    def dropped(self) -> int:
        """Return how many embeddings were replaced by newer ones before they were fused."""
        worker = self._worker
        return self._dropped_before + (worker.mailbox.dropped if worker else 0)

    def blocking_issue(self) -> str:
        """Return what is wrong when no embedding arrives."""
        silence, embeddings = self.arrivals.silence(), self._embeddings
        if embeddings is None or silence <= self.settings.input_timeout:
            return ""
        return embeddings.silence(silence)

    def concern(self) -> str:
        """Return why the scene is not OK, and what is mixed up; tags alone may be meant so."""
        embeddings, reasonings = self._embeddings, self._reasoning_input
        if embeddings is None or reasonings is None:
            return ""
        crowds = (
            embeddings.publishers.crowd(self.time_watch.mixed(embeddings.topic)),
            reasonings.publishers.crowd(),
        )
        return "; ".join(filter(None, (self._doubt(), *crowds)))

    def summary(self) -> str:
        """Return that the node works, and when tags are all there is."""
        reasonings = self._reasoning_input
        if reasonings is not None and reasonings.tags_only():
            return f"active, tags only: {reasonings.cause()}"
        return "active"

    def figures(self) -> Mapping[str, str]:
        """Return the newest scene's status and ages."""
        scene = self._newest
        if scene is None:
            return {"heartbeats": str(self._heartbeats)}
        return {
            "status": scene.status.name,
            "reason": scene.reason,
            "reasoning_age_s": figure(scene.reasoning_age, 3),
            "keyframe_age_s": figure(scene.keyframe_age, 3),
            "heartbeats": str(self._heartbeats),
            **{
                f"{link}_p{percent}_ms": milliseconds(meter.percentile(percent))
                for link, meter in sorted(self._latencies.items())
                for percent in (50, 95, 99)
            },
        }

    def _doubt(self) -> str:
        scene, fusion, reasonings = self._newest, self._fusion, self._reasoning_input
        if scene is None or fusion is None or reasonings is None:
            return ""
        if scene.status is Status.NO_REASONING and reasonings.tags_only():
            return fusion.doubt
        return scene.reason

    def _on_embedding(self, arrival: EmbeddingArrival) -> None:
        self.arrivals.add()
        worker = self._worker
        if worker is not None:
            worker.mailbox.put(arrival)

    def _on_reasoning(self, message: Any) -> None:
        self._reasonings.append(ReasoningArrival(message, time.monotonic()))

    def _on_presence(self, alive: bool) -> None:
        with self._lock:
            if self._fusion is not None:
                self._fusion.slow.gone = not alive

    def _fuse(self, arrival: EmbeddingArrival) -> None:
        embeddings = self._embeddings
        if embeddings is None:
            return
        try:
            embedding = arrival.read()
        except MessageError as error:
            self.warnings.add(
                "bad_embedding", f"embedding on {embeddings.topic} was skipped: {error}"
            )
            return
        if not self.time_watch.accepts(embedding.stamp_ns, embeddings.topic):
            return
        with self._lock:
            fusion = self._fusion
            if fusion is None:
                return
            self._take_reasonings(fusion)
            now_ns = self.get_clock().now().nanoseconds
            scene = fusion.fuse(embedding, arrival.received_s, now_ns, arrival.spent_s)
            self._publish(scene)
            self._detections.publish(scene, self._located())
        for link, seconds in scene.latency.items():
            self._latencies.setdefault(link, Meter()).add(seconds)
        self.results.add(time.monotonic() - arrival.received_s)
        age = self.age_of(embedding.stamp_ns)
        if age is not None:
            self.ages.add(age)

    def _take_reasonings(self, fusion: SceneFusion) -> None:
        while self._reasonings:
            arrival = self._reasonings.popleft()
            try:
                fusion.add_reasoning(REASONING.read(arrival.message), arrival.received_s)
            except MessageError as error:
                topic = self.resolve_topic_name("reasoning")
                self.warnings.add("bad_reasoning", f"reasoning on {topic} was skipped: {error}")

    def _heartbeat(self) -> None:
        """Publish when nothing else did for a while, and at once when something is missing."""
        tap, now, settings = self._tap, time.monotonic(), self.settings
        if tap is None or not self.active:
            return
        with self._lock:
            fusion = self._fusion
            if fusion is None:
                return
            missing = fusion.fast.missing(now, settings.input_timeout)
            blind = missing or fusion.empty
            slow = fusion.uninformed or fusion.slow.missing(now, settings.stale_after)
        # To join a topic may wait for the middleware, and scenes may not wait for that.
        tap.listen(blind or self._overlays.get_subscription_count() > 0)
        tap.calibrate(self._markers.get_subscription_count() > 0)
        self._ask_for_causes(fusion, tap, blind, slow, now)
        with self._lock:
            if self._fusion is not fusion or not self.active:
                return
            silent = self._newest is not None and self._newest.status in SILENT
            due = now - self._published_s >= 1.0 / settings.heartbeat_hz
            if not due and (silent or not missing or self._newest is None):
                return
            self._take_reasonings(fusion)
            alive = tap.alive()
            issue = self._no_embedding if alive else self._no_image
            self._publish(fusion.heartbeat(now, alive, settings.input_timeout, issue))
            self._heartbeats += 1

    def _ask_for_causes(
        self, fusion: SceneFusion, tap: CameraTap, blind: bool, slow: bool, now: float
    ) -> None:
        """Find out what keeps away what is missing, now and then: the graph knows."""
        embeddings, reasonings = self._embeddings, self._reasoning_input
        if embeddings is None or reasonings is None or now - self._asked_s < ASK_S:
            return
        self._asked_s = now if blind or slow else float("-inf")
        self._no_embedding = embeddings.publishers.cause() if blind else ""
        self._no_image = tap.cause() if blind else ""
        fusion.slow_issue = reasonings.cause() if slow else ""
        if self.time_watch.mixed(embeddings.topic):
            fusion.slow_issue = (
                f"the stamps on {embeddings.topic} jump back and forth, as if from two cameras; "
                "see what vision_encoder reports on /diagnostics"
            )

    def _publish(self, scene: Scene) -> None:
        self._scenes.publish(SCENE.write(scene, ROS))
        self._published_s = time.monotonic()
        self._newest = scene
        if self._markers.get_subscription_count() > 0 and scene.frame_id:
            camera = self._tap.pinhole(scene.image_size) if self._tap is not None else None
            depth = self.settings.marker_depth
            self._markers.publish(markers(scene, camera, depth, self._located()))
        painter = self._painter
        if painter is not None and self._overlays.get_subscription_count() > 0:
            painter.mailbox.put(scene)

    def _paint(self, scene: Scene) -> None:
        tap = self._tap
        message = tap.image(scene.stamp_ns) if tap is not None else None
        if message is None:
            return
        try:
            pixels = self._reader.read(message, self.settings.image_options)
        except ImageError as error:
            cause = self._reader.explain(error)
            self.warnings.add(error.kind, f"no overlay: the image was skipped: {cause}")
            return
        self._overlays.publish(overlay(pixels, scene, self._located()))

    def _located(self) -> LocatedObjects | None:
        locations = self._locations
        return locations.current() if locations is not None else None


def main() -> NoReturn:
    """Run the node as a process."""
    run(SceneFusionNode)


if __name__ == "__main__":
    main()
