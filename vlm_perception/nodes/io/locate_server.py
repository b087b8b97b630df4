# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The service ~/locate of the language node, and the objects that it follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from std_srvs.srv import Trigger

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.messages.codec import header
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import LOCATIONS, located_message
from vlm_perception.msg import LocatedObjects
from vlm_perception.nodes.base.diagnostics import Meter, milliseconds
from vlm_perception.nodes.io.camera_choice import chosen_camera
from vlm_perception.nodes.io.camera_stream import CameraStream
from vlm_perception.nodes.io.embedding_subscription import EmbeddingArrival
from vlm_perception.nodes.io.qos import overridable, requests, results
from vlm_perception.nodes.process.errors import guarded
from vlm_perception.nodes.process.niceness import give_way
from vlm_perception.nodes.process.ticker import Ticker
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.following import Following
from vlm_perception.perception.locating.locator import Located, Locator
from vlm_perception.srv import Locate
from vlm_perception.types import Embedding, LocatedObject
from vlm_perception.types import LocatedObjects as Objects

FOLLOW_HZ = 10.0
"""Looks for what is followed of each camera, a second."""
NOT_ACTIVE = "the node is not active; configure and activate it first"
EXPIRY_S = 0.2
"""Between two looks at what was not found for too long: no frame may come any more."""


class _Followed:
    """What is followed of one camera, in a thread of its own, and where that is published."""

    def __init__(self, node: Any, camera: CameraStream) -> None:
        self._node, self.camera = node, camera
        self._worker: Worker[EmbeddingArrival] | None = None
        self.following: Following | None = None
        self._sequence, self._lock = 0, threading.Lock()
        self._publisher = node.create_lifecycle_publisher(
            LocatedObjects,
            camera.beside("locations"),
            results(),
            qos_overriding_options=overridable(),
        )

    def load(self, following: Following | None) -> None:
        self.following, self._sequence = following, 0

    def start(self) -> None:
        self._worker = self._node.worker(
            f"follow {self.camera.name}".strip(),
            self._track,
            lambda: 1.0 / FOLLOW_HZ,
            self._node.settings.niceness,
        )

    def stop(self) -> None:
        if self._worker is not None:
            self._node.end(self._worker)
            self._worker = None

    def arrived(self, arrival: EmbeddingArrival) -> None:
        worker = self._worker
        if worker is not None and self.following:
            worker.mailbox.put(arrival)

    def _track(self, arrival: EmbeddingArrival) -> bool:
        """Look for the objects in a frame; false where it did not come with its patches."""
        following = self.following
        embedding = self.camera.with_patches(arrival) if following else None
        if not following or embedding is None:
            return False
        with self._lock:
            self._publish(following.update(embedding, arrival.received_s))
        return True

    def expire(self) -> None:
        """Tell what was lost, if anything was."""
        following = self.following
        with self._lock:
            while following is not None and (objects := following.expire()) is not None:
                self._publish(objects)
                if issue := self.camera.patches_issue():
                    topic = self._node.resolve_topic_name(self.camera.beside("locations"))
                    self._node.warnings.add("not_followed", f"objects on {topic} are lost: {issue}")

    def concern(self) -> str:
        """Say why what is followed cannot be looked for; empty: it can."""
        issue = self.camera.patches_issue() if self.following else ""
        return f"what is followed cannot be looked for: {issue}" if issue else ""

    def _publish(self, objects: Objects) -> None:
        self._publisher.publish(LOCATIONS.write(objects, ROS, sequence=self._sequence))
        self._sequence += 1


class Locating:
    """Answers in the threads that the executor gives to services.

    While the node is not active, each answer says so.
    """

    def __init__(self, node: Any, cameras: Mapping[str, CameraStream]) -> None:
        """Offer the service and advertise what is followed.

        Args:
            node: a PerceptionNode whose settings have niceness.
            cameras: those that the node serves, by name; the only one may have no name.
        """
        self._node = node
        self._cameras = {name: _Followed(node, camera) for name, camera in cameras.items()}
        self._locator: Locator | None = None
        self._digest = ""
        self._active, self._activity = False, threading.Lock()
        self._expiry: Ticker | None = None
        self._answers = Meter()
        node.create_service(Locate, "~/locate", self._locate, qos_profile=requests())
        node.create_service(
            Trigger, "~/stop_following", self._stop_following, qos_profile=requests()
        )

    def load(self, locator: Locator, digest: str) -> None:
        """Look for phrases with this bundle once the node is active."""
        self._locator, self._digest = locator, digest
        for camera in self._cameras.values():
            camera.load(Following(locator, self._node.run_id))

    def start(self) -> None:
        """Answer from now on."""
        for camera in self._cameras.values():
            camera.start()
        self._expiry = Ticker(self._node, "expiry", EXPIRY_S, guarded(self._node, self._expire))
        self._active = True

    def stop(self) -> None:
        """Answer no more, and lose what was followed."""
        with self._activity:
            self._active = False
            self.reset()
        if self._expiry is not None:
            self._expiry.close()
            self._expiry = None
        for camera in self._cameras.values():
            camera.stop()

    def unload(self) -> None:
        """Let go of the bundle."""
        self._locator = None
        for camera in self._cameras.values():
            camera.load(None)

    def reset(self, name: str | None = None) -> None:
        """Lose what was followed of a camera, or of all, as after a time jump."""
        for each, camera in self._cameras.items():
            if camera.following is not None and name in (None, each):
                camera.following.reset()

    def arrived(self, name: str, arrival: EmbeddingArrival) -> None:
        """Take a camera's newest embedding; for the executor's thread."""
        self._cameras[name].arrived(arrival)

    def concern(self) -> str:
        """Say why what is followed cannot be looked for; empty: it can, or nothing is."""
        return "; ".join(filter(None, (each.concern() for each in self._cameras.values())))

    def figures(self) -> Mapping[str, str]:
        """Return what the diagnostics show."""
        return {
            "located": str(self._answers.total),
            "locate_p95_ms": milliseconds(self._answers.percentile(95)),
            "followed": str(self._followed()),
        }

    def _followed(self) -> int:
        return sum(len(each.following or ()) for each in self._cameras.values())

    def _stop_following(self, _: Any, response: Any) -> Any:
        followed = self._followed()
        self.reset()
        response.success = True
        response.message = f"objects that are followed no longer: {followed}"
        return response

    def _expire(self) -> None:
        for camera in self._cameras.values():
            camera.expire()

    def _locate(self, request: Any, response: Any) -> Any:
        began = time.monotonic()
        give_way(self._node.settings.niceness)  # This thread ends with the answer.
        try:
            camera = self._cameras[chosen_camera(self._node, self._cameras, request.camera)]
            locator, newest = self._locator, _Newest(camera.camera)
            if not self._active or locator is None:
                raise LocateError(NOT_ACTIVE)
            with self._node.watchdog.watch("locate"):
                located = locator.locate(
                    request.phrase,
                    request.method,
                    track=request.track,
                    patches=newest.patches,
                    whole=newest.whole,
                )
            if request.track:
                objects = self._follow(camera, located, newest.came_s)
            else:
                objects = tuple(LocatedObject(0, located.phrase.text, box) for box in located.boxes)
            _fill(response, located, objects)
            self._answers.add(time.monotonic() - began)
        except VlmPerceptionError as error:
            response.message = str(error)
            self._node.warnings.add("phrase_refused", f"no answer on ~/locate: {error}")
        except Exception as error:
            response.message = self._node.internal_error(error, "no answer on ~/locate")
        response.bundle_digest = self._digest
        response.processing_time = time.monotonic() - began
        return response

    def _follow(
        self, camera: _Followed, located: Located, came_s: float
    ) -> tuple[LocatedObject, ...]:
        with self._activity:
            # The answer may have taken long.
            if not self._active or camera.following is None:
                raise LocateError(NOT_ACTIVE)
            return camera.following.follow(located, came_s)


class _Newest:
    """Gives a camera's newest frame, and keeps when that came."""

    def __init__(self, camera: CameraStream) -> None:
        self._camera = camera
        self.came_s = 0.0
        """On the monotonic clock, in seconds."""

    def patches(self) -> Embedding:
        embedding, self.came_s = self._camera.newest_patches()
        return embedding

    def whole(self) -> Embedding:
        embedding, self.came_s = self._camera.newest_whole()
        return embedding


def _fill(response: Any, located: Located, objects: tuple[LocatedObject, ...]) -> None:
    embedding = located.embedding
    response.success = True
    response.boxes = [located_message(each, ROS) for each in objects]
    response.method = located.method
    response.header = header(embedding.stamp_ns, embedding.frame_id, ROS)
    response.run_id, response.sequence = embedding.run_id, embedding.sequence
    response.image_width, response.image_height = embedding.image_size
