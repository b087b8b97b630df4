#!/usr/bin/env python3
# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The slow path: newest embeddings in, captions and typed answers out, of one camera or several."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.memory import language_bytes
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.messages.codec import MessageError
from vlm_perception.nodes.base.diagnostics import Report, figure
from vlm_perception.nodes.base.lifecycle import PerceptionNode
from vlm_perception.nodes.base.networks import prepare_networks, tell_memory
from vlm_perception.nodes.io.ask_server import Asking
from vlm_perception.nodes.io.camera_stream import CameraStream
from vlm_perception.nodes.io.embedding_subscription import EmbeddingArrival
from vlm_perception.nodes.io.locate_server import Locating
from vlm_perception.nodes.language_cost import describe_cost, slow_frame, unmet_parameters
from vlm_perception.nodes.language_settings import LanguageSettings
from vlm_perception.nodes.process.niceness import session_gives_way
from vlm_perception.nodes.process.runner import run
from vlm_perception.nodes.process.worker import Mailbox, Worker
from vlm_perception.perception.details import Kind
from vlm_perception.perception.device_tokens import DeviceTokens
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.choice import format_of_bundle, format_of_served
from vlm_perception.perception.locating.locator import Locator
from vlm_perception.perception.locating.model import BUNDLE_BUDGET_S, ModelLocator
from vlm_perception.perception.reasoning.degradation import Degradation
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.questions import load_questions
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.served.errors import LATE, ServedError
from vlm_perception.perception.served.record import Record, RecordError, Recording, Writer

Seen = tuple[CameraStream, EmbeddingArrival]
"""A camera, and an embedding of it."""


class LanguageReasonerNode(PerceptionNode[LanguageSettings]):
    """Reasons on the newest embedding of each camera in turn, rate_hz times a second at most."""

    def __init__(self, *, alone: bool = False, device_tokens: DeviceTokens | None = None) -> None:
        """Declare parameters and the publishers.

        Args:
            alone: whether the process holds no other node, so that all of it may give way.
            device_tokens: what it shares with the encoders in this process.
        """
        super().__init__("language_reasoner", LanguageSettings)
        self._alone, self._device_tokens = alone, device_tokens
        self._bundle: ModelBundle | None = None
        self._service: LanguageService | None = None
        self._worker: Worker[Seen] | None = None
        self._overtaking: Worker[Seen] | None = None
        """Looks at what comes while a server is asked about an older frame."""
        self._notes: dict[str, str] = {}
        self._dropped_before = 0
        self._degradation = Degradation()
        self._began_s: float | None = None
        self._last_s = 0.0
        """When the frame in hand was taken, by the monotonic clock, and what the last one took."""
        self._served: ServedModel | None = None
        names, served = self.settings.cameras or ("",), self.settings.served_settings().is_served
        reads = Kind.IMAGE if served else Kind.MODEL
        self._cameras = {name: CameraStream(self, name, reads) for name in names}
        newest = {name: camera.newest_embedding for name, camera in self._cameras.items()}
        self._asking, self._locating = Asking(self, newest), Locating(self, self._cameras)

    def load(self) -> None:
        """Load the bundle, compare it with its golden outputs and warm the networks up."""
        settings = self.settings
        bundle = ModelBundle.load(settings.bundle)
        served = self._serve()
        graphs = () if served is not None else bundle.language_graphs
        self._notes = prepare_networks(bundle, graphs, settings, self.get_logger())
        spec, service = bundle.manifest.language, None
        if served is None and spec is None:
            self.get_logger().warning(f"only ~/locate is answered: {_without_language(bundle)}")
        else:
            if served is None and spec is not None:
                tell_memory(bundle, language_bytes(bundle.manifest, spec), self.get_logger())
            service = self._load_language(bundle, served)
        self._bundle, self._service = bundle, service
        for camera in self._cameras.values():
            reasoner = Reasoner(service, run_id=self.run_id) if service is not None else None
            camera.load(reasoner, bundle.manifest, self._available)
        self._locating.load(self._locator(bundle, service), bundle.digest)
        engine = f" in {service.engine_name}" if service is not None else ""
        self.get_logger().info(f"bundle {bundle.manifest.name} from {bundle.path} is ready{engine}")

    def _locator(self, bundle: ModelBundle, service: LanguageService | None) -> Locator:
        """What finds phrases; without a language model that writes boxes, it says why not."""
        served = self.settings.served_settings()
        try:
            known = format_of_served(served) if served.is_served else None
            boxes = known or format_of_bundle(bundle.manifest)
        except LocateError as error:
            return Locator(bundle, None, str(error))
        if service is None:
            return Locator(bundle, None, _without_language(bundle))
        language = service.language
        locator = ModelLocator(language, boxes, read=service.read)
        budget_s = None if served.is_served else BUNDLE_BUDGET_S
        writes = partial(locator.locate, budget_s=budget_s, wait_s=language.deadline_s)
        return Locator(bundle, writes, "")

    def _load_language(self, bundle: ModelBundle, served: ServedModel | None) -> LanguageService:
        settings = self.settings
        own = load_questions(Path(settings.questions)) if settings.questions else None
        questions = bundle.manifest.questions if own is None else own
        service = LanguageService(
            bundle,
            settings.reasoner_settings(),
            threads=settings.threads,
            questions=questions,
            engine=settings.engine,
            device_tokens=self._device_tokens,
            language=served,
        )
        service.warm_up()
        self._tell_cost(service)
        known = {question.name for question in questions}
        if settings.keep_questions and known and known.isdisjoint(settings.keep_questions):
            self.get_logger().warning(
                "keep_questions names none of this bundle's questions, so that the first half is "
                f"asked when work must be saved; choose of {', '.join(sorted(known))}"
            )
        return service

    def start(self) -> None:
        """Listen to the encoders and to instructions."""
        self._give_way(self.settings.niceness)
        if self._served is not None:
            self._served.resume()
        self._degradation = Degradation()
        niceness = self.settings.niceness
        self._worker = self.worker("reason", self._reason, self._interval, niceness)
        mailboxes = [self._worker.mailbox]
        if self._served is not None:
            self._overtaking = self.worker("overtake", self._overtake, self._interval, niceness)
            mailboxes.append(self._overtaking.mailbox)
        self._locating.start()
        for camera in self._cameras.values():
            camera.start(partial(self._put, mailboxes, camera))
        service, bundle = self._service, self._bundle
        if bundle is not None:
            asker = service.asker if service is not None else None
            self._asking.start(asker, bundle.digest, _without_language(bundle))

    def stop(self) -> None:
        """Stop to listen, to reason and to answer."""
        served = self._served
        if served is not None:
            served.interrupt()
        self._asking.stop(self.stop_timeout_s)
        self._locating.stop()
        for camera in self._cameras.values():
            camera.stop()
        if self._overtaking is not None:
            self.end(self._overtaking)
            self._overtaking = None
        if self._worker is not None:
            self.end(self._worker)
            self._dropped_before += self._worker.mailbox.dropped
            self._worker = None

    def unload(self) -> None:
        """Let go of the networks."""
        for camera in self._cameras.values():
            camera.unload()
        if self._served is not None:
            self._served.close()
        self._locating.unload()
        self._service = self._served = self._bundle = None

    def close(self) -> None:
        """Stop, unload and take the action away, for the end of the process."""
        super().close()
        self._asking.close()

    def time_jumped(self) -> None:
        """Forget the anchors, and lose what is followed."""
        self._locating.reset()
        for camera in self._cameras.values():
            camera.time_jumped()

    def stamps_jumped(self, topic: str) -> None:
        """Forget the anchor of the camera whose stamps have gone back."""
        for name, camera in self._cameras.items():
            if camera.topic == topic:
                self._locating.reset(name)
                camera.time_jumped()

    def dropped(self) -> int:
        """Return how many embeddings were skipped in favour of newer ones."""
        worker = self._worker
        return self._dropped_before + (worker.mailbox.dropped if worker else 0)

    def blocking_issue(self) -> str:
        """Return what is wrong when no embedding of a camera arrives, or none can be read."""
        cameras = (camera.blocking_issue() for camera in self._cameras.values())
        served = self._served
        away = served.issue() if served is not None else ""
        return "; ".join(filter(None, (away, *cameras)))

    def concern(self) -> str:
        """Return what is wrong when embeddings of encoders are mixed, or a frame takes long.

        Also why what is followed is not seen. Without the time of a frame, a slow first answer
        would look like none.
        """
        mixed = (camera.concern() for camera in self._cameras.values())
        began_s = self._began_s
        at_work = time.monotonic() - began_s if began_s is not None else 0.0
        served = self._served
        nonsense = served.concern() if served is not None else ""
        slow = slow_frame(max(at_work, self._last_s))
        return "; ".join(filter(None, (nonsense, *mixed, self._locating.concern(), slow)))

    def parts(self) -> Mapping[str, Report]:
        """Return a report of each camera where there are several."""
        worker = self._worker
        return {
            name: camera.report(worker.mailbox.dropped_of(name) if worker else 0)
            for name, camera in self._cameras.items()
            if name
        }

    def figures(self) -> Mapping[str, str]:
        """Return bundle, engine and how often was analysed."""
        bundle, service, served = self._bundle, self._service, self._served
        if bundle is None:
            return {"bundle": self.settings.bundle}
        language = {}
        if service is not None:
            language = {
                "engine": service.engine_name,
                "max_caption_s": f"{service.max_caption_s:g}",
            }
        return {
            "bundle": bundle.manifest.name,
            "bundle_digest": bundle.digest,
            **language,
            **self._notes,
            **(served.figures() if served is not None else {}),
            **self._camera_figures(),
            "rung": str(self._degradation.level),
            **self._asking.figures(),
            **self._locating.figures(),
        }

    def summary(self) -> str:
        """Return that the node works, and when it does nothing but locate."""
        bundle = self._bundle
        if bundle is None or self._service is not None:
            return "active"
        return f"active, ~/locate only: {_without_language(bundle)}"

    def _serve(self) -> ServedModel | None:
        """What asks the server, where one runs the language model; says where images go."""
        settings = self.settings.served_settings()
        if not settings.is_served:
            return None
        endpoint = settings.checked_endpoint()
        if endpoint.is_remote:
            self.get_logger().warning(
                f"images of the camera leave this machine: key frames are sent to {endpoint.url}"
            )
        writer = self._writer(settings.model)
        connection = Connection(endpoint, slots=settings.slots)
        if writer is None:
            self._served = ServedModel(connection, settings)
            return self._served
        self._served = ServedModel(
            Recording(connection, writer, time.monotonic),
            settings,
            learned=lambda abilities: writer.server(dataclasses.asdict(abilities)),
        )
        return self._served

    def _writer(self, model: str) -> Writer | None:
        """What writes down the server's answers, where that is wanted.

        Raises:
            RecordError: it cannot be written there.
        """
        if not self.settings.served_record:
            return None
        file = Path(self.settings.served_record).expanduser().absolute()
        if not file.parent.is_dir():
            raise RecordError(f"served_record {file}: there is no such folder; make it first")
        if (of := Record.model_of(file)) not in (None, model):
            raise RecordError(
                f"served_record {file} is a record of {of}, not of {model}; give another file"
            )
        logger = self.get_logger()
        return Writer(
            file,
            model,
            lambda error: logger.error(f"nothing more is written to served_record {file}: {error}"),
        )

    def _available(self) -> bool:
        served = self._served
        return served is None or served.may_be_asked()

    def _tell_cost(self, service: LanguageService) -> None:
        """Measure an analysis, and say which parameters this machine cannot meet."""
        settings, logger = self.settings, self.get_logger()
        here = self._served is None
        try:
            cost = service.measure_once() if here else service.measure()
        except ServedError as error:
            logger.warning(f"waiting for the language model: {error}")
            return
        where = "on this machine" if here else f"by {service.engine_name}"
        logger.info(describe_cost(cost, settings, service.max_caption_s, where))
        for sentence in unmet_parameters(cost, settings, service.max_caption_s):
            logger.warning(sentence)

    def _give_way(self, niceness: int) -> None:
        """Let the session do so; the threads that work do it themselves."""
        if self._alone:
            try:
                session_gives_way(niceness)
            except OSError as error:
                self.get_logger().warning(
                    f"the session cannot lower its priority ({error}); with few cores the encoder "
                    "may fall behind"
                )

    def _camera_figures(self) -> Mapping[str, str]:
        """Return those of the only camera, or what can be summed up of several."""
        cameras = list(self._cameras.values())
        if len(cameras) == 1:
            return cameras[0].figures()
        analyses = sum(camera.analyses for camera in cameras)
        reasonings = sum(camera.sequence for camera in cameras)
        return {
            "analyses": str(analyses),
            "keyframe_ratio": figure(analyses / max(1, reasonings), 3),
        }

    def _put(
        self, mailboxes: Sequence[Mailbox[Seen]], camera: CameraStream, arrival: EmbeddingArrival
    ) -> None:
        for mailbox in mailboxes:
            mailbox.put((camera, arrival), sender=camera.name)
        self._locating.arrived(camera.name, arrival)

    def _interval(self) -> float:
        return 1.0 / (self.settings.rate_hz * self._degradation.effort.rate)

    def _reason(self, seen: Seen) -> bool:
        """Reason on an embedding; false where that was no tick."""
        camera, arrival = seen
        self._began_s = began_s = time.monotonic()
        try:
            seconds = camera.reason(arrival, self._degradation.level)
        except VlmPerceptionError as error:
            kind = "bad_embedding" if isinstance(error, MessageError) else "refused"
            self.warnings.add(kind, f"embedding on {camera.topic} was skipped: {error}")
            if isinstance(error, ServedError) and error.fault in LATE:
                spent_s = time.monotonic() - began_s
                self._degradation.record(spent_s, 1.0 / self.settings.rate_hz)
            return True
        finally:
            self._began_s, self._last_s = None, time.monotonic() - began_s
        if seconds is not None:
            self._degradation.record(seconds, 1.0 / self.settings.rate_hz)
        return seconds is not None

    def _overtake(self, seen: Seen) -> bool:
        """End the analysis in hand where this embedding calls for that; false: there was none."""
        camera, arrival = seen
        worker = self._worker
        try:
            return worker is not None and camera.overtake(arrival, worker.end_step)
        except VlmPerceptionError:
            return False  # It is refused, and reported, when it is reasoned on.


def _without_language(bundle: ModelBundle) -> str:
    return (
        f"bundle {bundle.manifest.name} has no language model; use one that was exported with "
        "vlm/, or do without reasonings and answers"
    )


def main() -> NoReturn:
    """Run the node as a process."""
    run(lambda: LanguageReasonerNode(alone=True))


if __name__ == "__main__":
    main()
