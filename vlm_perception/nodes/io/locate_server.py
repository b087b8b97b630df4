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
from vlm_perception.types import LocatedObject
from vlm_perception.types import LocatedObjects as Objects

EXPIRY_S = 0.2
"""Between two looks at what was not found for too long: no frame may come any more."""


class _Followed:
    """What is followed of one camera, and where that is published."""

    def __init__(self, node: Any, camera: CameraStream) -> None:
        self.camera = camera
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

    def track(self, arrival: EmbeddingArrival) -> bool:
        """Look for the objects in a frame; false where it did not come with its patches."""
        following = self.following
        embedding = self.camera.with_patches(arrival) if following else None
        if not following or embedding is None:
            return False
        with self._lock:
            self._publish(following.update(embedding))
        return True

    def expire(self) -> None:
        """Tell what was lost, if anything was."""
        following = self.following
        with self._lock:
            if following is not None and (objects := following.expire()) is not None:
                self._publish(objects)

    def _publish(self, objects: Objects) -> None:
        self._publisher.publish(LOCATIONS.write(objects, ROS, sequence=self._sequence))
        self._sequence += 1


class Locating:
    """Answers in the threads that the executor gives to services, and follows in one of its own.

    While the node is not active, each answer says so.
    """

    def __init__(self, node: Any, cameras: Mapping[str, CameraStream]) -> None:
        """Offer the service and advertise what is followed.

        Args:
            node: a PerceptionNode whose settings have rate_hz and niceness.
            cameras: those that the node serves, by name; the only one may have no name.
        """
        self._node = node
        self._cameras = {name: _Followed(node, camera) for name, camera in cameras.items()}
        self._locator: Locator | None = None
        self._digest = ""
        self._active = False
        self._worker: Worker[tuple[_Followed, EmbeddingArrival]] | None = None
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
        settings = self._node.settings
        self._worker = self._node.worker(
            "follow",
            lambda item: item[0].track(item[1]),
            lambda: 1.0 / settings.rate_hz,
            settings.niceness,
        )
        self._expiry = Ticker(self._node, "expiry", EXPIRY_S, guarded(self._node, self._expire))
        self._active = True

    def stop(self) -> None:
        """Answer no more, and lose what was followed."""
        self._active = False
        self.reset()
        if self._expiry is not None:
            self._expiry.close()
            self._expiry = None
        if self._worker is not None:
            self._node.end(self._worker)
            self._worker = None

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
        camera, worker = self._cameras[name], self._worker
        if worker is not None and camera.following:
            worker.mailbox.put((camera, arrival), sender=name)

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
            locator, following = self._locator, camera.following
            if not self._active or locator is None or following is None:
                raise LocateError("the node is not active; configure and activate it first")
            with self._node.watchdog.watch("locate"):
                located = locator.locate(
                    request.phrase,
                    request.method,
                    track=request.track,
                    patches=camera.camera.newest_patches,
                    whole=camera.camera.newest_embedding,
                )
            _fill(response, located, _objects(located, following if request.track else None))
            self._answers.add(time.monotonic() - began)
        except VlmPerceptionError as error:
            response.message = str(error)
            self._node.warnings.add("phrase_refused", f"no answer on ~/locate: {error}")
        except Exception as error:
            response.message = self._node.internal_error(error, "no answer on ~/locate")
        response.bundle_digest = self._digest
        response.processing_time = time.monotonic() - began
        return response


def _objects(located: Located, following: Following | None) -> tuple[LocatedObject, ...]:
    """What was found, with ids where it is followed."""
    if following is not None:
        return following.follow(located)
    return tuple(LocatedObject(0, located.phrase.text, box) for box in located.boxes)


def _fill(response: Any, located: Located, objects: tuple[LocatedObject, ...]) -> None:
    embedding = located.embedding
    response.success = True
    response.boxes = [located_message(each, ROS) for each in objects]
    response.method = located.method
    response.header = header(embedding.stamp_ns, embedding.frame_id, ROS)
    response.run_id, response.sequence = embedding.run_id, embedding.sequence
    response.image_width, response.image_height = embedding.image_size
