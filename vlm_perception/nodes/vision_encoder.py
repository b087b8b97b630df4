#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The fast path: camera images in, embeddings with tags and regions out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from vlm_perception.bundle.bundle import VISION_GRAPH, ModelBundle
from vlm_perception.bundle.memory import encoder_bytes
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_reader import ImageReader
from vlm_perception.messages.codec import header, stamp_ns
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import EMBEDDING, EMBEDDING_INFO
from vlm_perception.msg import EmbeddingInfo, VisionEmbedding
from vlm_perception.nodes.base.lifecycle import PerceptionNode
from vlm_perception.nodes.base.networks import NetworkSettings, prepare_networks, tell_memory
from vlm_perception.nodes.base.parameters import CONFIGURE, setting
from vlm_perception.nodes.encoder_pace import EncoderPace
from vlm_perception.nodes.io import intra_process
from vlm_perception.nodes.io.details.output import DetailOutput
from vlm_perception.nodes.io.images.image_settings import ImageSettings
from vlm_perception.nodes.io.images.image_subscription import COMPRESSED, RAW, ImageInput
from vlm_perception.nodes.io.qos import latched, newest, overridable, requests
from vlm_perception.nodes.process.runner import run
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.perception.details import Kind, without_detail
from vlm_perception.perception.device_tokens import DeviceTokens
from vlm_perception.perception.vision.embedding_info import embedding_info_fields
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.srv import LoadVocabulary, SetVocabulary
from vlm_perception.types import Frame

VOCABULARY_REQUESTS = 4
"""So many may wait for the text network; a further one is refused."""


@dataclass(frozen=True)
class EncoderSettings(ImageSettings, NetworkSettings):
    """Parameters of vision_encoder."""

    image_transport: str = setting(
        RAW,
        "Which camera topic to read: `image` (raw) or `image/compressed`.",
        choices=(RAW, COMPRESSED),
        change=CONFIGURE,
    )
    temporal: bool = setting(
        True,
        "Smooth the tags over the latest images, so that they do not flicker; with false, read "
        "them from each image alone.",
        change=CONFIGURE,
    )
    vocabulary: str = setting(
        "",
        "Vocabulary file of `vlm-perception adapt classes` with the labels to begin with; empty: "
        "the bundle's own.",
        change=CONFIGURE,
    )
    input_timeout: float = setting(
        2.0,
        "Seconds without an image after which the diagnostics report an error.",
        minimum=0.1,
        maximum=3600.0,
    )


@dataclass(frozen=True)
class Arrival:
    """An image message and the monotonic time at which it came, in seconds."""

    message: Any
    received_s: float


class VisionEncoderNode(PerceptionNode[EncoderSettings]):
    """Encodes the newest image; older ones that were not reached in time are dropped."""

    def __init__(self, *, namespace: str = "", device_tokens: DeviceTokens | None = None) -> None:
        """Declare parameters, publishers and the service.

        Args:
            namespace: as PerceptionNode takes it.
            device_tokens: what it shares with a language node in this process.
        """
        super().__init__("vision_encoder", EncoderSettings, namespace=namespace)
        self._device_tokens = device_tokens
        self._encoder: VisionEncoder | None = None
        self._pace = EncoderPace(0.0)
        self._bundle: ModelBundle | None = None
        self._images: ImageInput | None = None
        self._worker: Worker[Arrival] | None = None
        self._reader = ImageReader(self._note)
        self._camera_notes: list[str] = []
        self._notes: dict[str, str] = {}
        self._dropped_before = 0
        self._sequence = 0
        self._embeddings = self.create_lifecycle_publisher(
            VisionEmbedding, "embedding", newest(2), qos_overriding_options=overridable()
        )
        self._info = self.create_lifecycle_publisher(
            EmbeddingInfo, "embedding_info", latched(), qos_overriding_options=overridable()
        )
        topic = self._embeddings.topic_name
        self._details = tuple(DetailOutput(self, topic, kind) for kind in Kind)
        self._vocabulary_requests = threading.BoundedSemaphore(VOCABULARY_REQUESTS)
        self.create_service(
            SetVocabulary, "~/set_vocabulary", self._set_vocabulary, qos_profile=requests()
        )
        self.create_service(
            LoadVocabulary, "~/load_vocabulary", self._load_vocabulary, qos_profile=requests()
        )

    def load(self) -> None:
        """Load the bundle, compare it with its golden outputs and warm the networks up."""
        settings = self.settings
        bundle = ModelBundle.load(settings.bundle)
        self._notes = prepare_networks(bundle, (VISION_GRAPH,), settings, self.get_logger())
        tell_memory(bundle, encoder_bytes(bundle.manifest), self.get_logger())
        encoder = VisionEncoder(
            bundle,
            threads=settings.threads,
            run_id=self.run_id,
            engine=settings.engine,
            temporal=settings.temporal,
            device_tokens=self._device_tokens,
            vocabulary=Path(settings.vocabulary) if settings.vocabulary else None,
        )
        encoder.warm_up()
        self._pace = EncoderPace(encoder.measure())
        self._bundle, self._encoder, self._sequence = bundle, encoder, 0
        self.get_logger().info(
            f"bundle {bundle.manifest.name} from {bundle.path} is ready in {encoder.engine_name}"
        )
        self.get_logger().info(self._pace.describe())
        if sentence := self._pace.too_slow():
            self.get_logger().warning(sentence)

    def start(self) -> None:
        """Tell what the embeddings are, and listen to the camera and to who wants a frame."""
        self._pace.restart()
        self._publish_info()
        if self._bundle is not None:
            for details in self._details:
                details.start(self._bundle.manifest)
        self._worker = self.worker("encode", self._encode)
        self._images = ImageInput(self, self.settings.image_transport, self._on_image)

    def stop(self) -> None:
        """Stop to listen and to encode."""
        if self._images is not None:
            self._images.close()
            self._images = None
        if self._worker is not None:
            self.end(self._worker)
            self._dropped_before += self._worker.mailbox.dropped
            self._worker = None
        for details in self._details:
            details.stop()

    def unload(self) -> None:
        """Let go of the networks."""
        self._encoder = self._bundle = None

    def dropped(self) -> int:
        """Return how many images were replaced by newer ones before they were encoded."""
        worker = self._worker
        return self._dropped_before + (worker.mailbox.dropped if worker else 0)

    def blocking_issue(self) -> str:
        """Return what is wrong when no image arrives."""
        silence, images = self.arrivals.silence(), self._images
        if images is None or silence <= self.settings.input_timeout:
            return ""
        return images.silence(silence)

    def concern(self) -> str:
        """Return what is wrong when images of several cameras are mixed, or most are dropped."""
        images = self._images
        if images is None:
            return ""
        crowd = images.publishers.crowd(self.time_watch.mixed(images.topic))
        return "; ".join(filter(None, (crowd, self._pace.concern())))

    def figures(self) -> Mapping[str, str]:
        """Return bundle, engine and vocabulary."""
        bundle, encoder = self._bundle, self._encoder
        if bundle is None or encoder is None:
            return {"bundle": self.settings.bundle}
        return {
            "bundle": bundle.manifest.name,
            "bundle_digest": bundle.digest,
            "engine": encoder.engine_name,
            **self._notes,
            "vocabulary_version": str(encoder.vocabulary.version),
            "labels": str(len(encoder.vocabulary.labels)),
            **{key: value for each in self._details for key, value in each.figures().items()},
            "padded": str(self._reader.padded),
            "camera": "; ".join(self._camera_notes),
        }

    def _on_image(self, message: Any) -> None:
        self.arrivals.add()
        worker = self._worker
        if worker is not None:
            self._pace.arrive(drops=worker.mailbox.put(Arrival(message, time.monotonic())))

    def _encode(self, arrival: Arrival) -> None:
        message, encoder, images = arrival.message, self._encoder, self._images
        if encoder is None or images is None:
            return
        stamp = stamp_ns(message.header.stamp)
        if not self.time_watch.accepts(stamp, images.topic):
            return
        self.time_watch.check_clock(stamp, images.topic, arrival.received_s)
        started = time.monotonic()
        try:
            pixels = self._reader.read(message, self.settings.image_options, view=True)
            converting = time.monotonic() - started
            frame = Frame(pixels, stamp, message.header.frame_id, arrival.received_s)
            embedding = encoder.encode(frame, self._sequence)
        except ImageError as error:
            self.warnings.add(
                error.kind, f"image on {images.topic} was skipped: {self._reader.explain(error)}"
            )
            return
        if message.header.frame_id != embedding.frame_id:
            self.get_logger().warning(
                f"the camera's frame_id {message.header.frame_id!r} starts with a slash, which tf2 "
                f"rejects: results have {embedding.frame_id!r}; set it so in the camera's driver",
                once=True,
            )
        embedding = replace(embedding, stages={"convert": converting, **embedding.stages})
        for details in self._details:
            details.keep(embedding)
        encoded_s = time.monotonic()
        self._pace.encode(encoded_s - started)
        spent_s = encoded_s - arrival.received_s
        intra_process.give(self._embeddings.topic_name, embedding, spent_s)
        if self._embeddings.get_subscription_count() > 0:
            sent = without_detail(embedding)
            self._embeddings.publish(EMBEDDING.write(sent, ROS, processing_time=spent_s))
        self._sequence += 1
        self.results.add(spent_s)
        age = self.age_of(stamp)
        if age is not None:
            self.ages.add(age)

    def _note(self, sentence: str) -> None:
        """Keep a one-time note about a camera for the diagnostics, too."""
        self._camera_notes.append(sentence)
        images = self._images
        self.get_logger().warning(f"{images.topic}: {sentence}" if images else sentence)

    def _publish_info(self) -> None:
        bundle, encoder = self._bundle, self._encoder
        if bundle is not None and encoder is not None:
            head = header(self.get_clock().now().nanoseconds, "", ROS)
            fields = embedding_info_fields(bundle, encoder)
            self._info.publish(ROS[EMBEDDING_INFO](header=head, run_id=self.run_id, **fields))

    def _own_labels(self) -> list[str]:
        bundle = self._bundle
        return list(bundle.manifest.vocabulary.names) if bundle else []

    def _set_vocabulary(self, request: Any, response: Any) -> Any:
        labels = list(request.labels) or self._own_labels()
        return self._change(response, lambda encoder: encoder.set_vocabulary(labels))

    def _load_vocabulary(self, request: Any, response: Any) -> Any:
        file = Path(request.file)
        return self._change(response, lambda encoder: encoder.read_vocabulary(file))

    def _change(self, response: Any, change: Callable[[VisionEncoder], int]) -> Any:
        """Fill the response to a request for another vocabulary."""
        encoder = self._encoder
        if encoder is None:
            response.message = "the node is not configured; configure it first"
            return response
        if not self._vocabulary_requests.acquire(blocking=False):
            response.message = (
                f"{VOCABULARY_REQUESTS} requests are already waiting; try again in a moment"
            )
            return response
        try:
            with self.watchdog.watch("set_vocabulary"):
                change(encoder)
            response.accepted = True
            self._publish_info()
        except VlmPerceptionError as error:
            response.message = str(error)
            self.warnings.add("vocabulary_refused", f"vocabulary refused: {error}")
        except Exception as error:
            response.message = self.internal_error(error, "vocabulary not set")
        finally:
            self._vocabulary_requests.release()
        response.vocabulary_version = int(encoder.vocabulary.version)
        return response


def main() -> NoReturn:
    """Run the node as a process."""
    run(VisionEncoderNode)


if __name__ == "__main__":
    main()
