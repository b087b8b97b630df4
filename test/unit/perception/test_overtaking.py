# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A newer key frame in place of the one that a server is asked about, and answers all the same."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.streets import street

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.engines.steps import Work
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer, Manner
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.overtaking import OvertakenError
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, Reasoning

ANALYSIS_S = 4.0
"""By the clock of the reasoner, which stands still otherwise."""


class Stage:
    """A server, reasoners that share its model, and pictures that they may see."""

    def __init__(self, server: BundleServer, bundle: ModelBundle) -> None:
        self.server, self.now_s = server, 0.0
        settings = ServedSettings(language=SERVED, endpoint=server.url, model=MODEL, slots=2)
        connection = Connection(settings.checked_endpoint(), slots=settings.slots)
        self.model = ServedModel(connection, settings, clock=lambda: float(server.looks))
        # Each frame is a key frame.
        asked = ReasonerSettings(max_caption_tokens=1, max_keyframe_age=0.0, drift_threshold=0.05)
        self.service = LanguageService(bundle, asked, language=self.model, clock=lambda: self.now_s)
        self.service.warm_up()
        encoder = VisionEncoder(bundle)
        self._pictures = [
            encoder.encode(Frame(street(seed).rendered.image, 1, "camera"), 0) for seed in range(4)
        ]
        self._sequence = itertools.count(1)

    def frame(self, picture: int) -> Embedding:
        """The next frame of the camera."""
        number = next(self._sequence)
        return replace(self._pictures[picture], sequence=number, stamp_ns=number * 10**8)

    def analyse(
        self, reasoner: Reasoner, frame: Embedding, newer: Sequence[int], *, late: bool = False
    ) -> Reasoning:
        """Reason on a frame that the server is slow to answer, and see others meanwhile."""
        began_s = self.now_s
        self.server.manner = Manner(piece_s=60.0)
        work = Work("reason")
        with ThreadPoolExecutor(1) as pool:

            def reason() -> Reasoning:
                with work:
                    return reasoner.reason(frame)

            future = pool.submit(reason)
            # The gate's engine can be ended, too, before that.
            wait(lambda: reasoner.is_analysing)
            wait(lambda: work.step is not None and work.step.cancel is not None)
            self.now_s = began_s + ANALYSIS_S * (0.75 if late else 0.25)
            for picture in newer:
                reasoner.overtake(self.frame(picture), work.end_step)
            self.now_s = began_s + ANALYSIS_S
            self.server.manner = Manner()
            return future.result()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    bundle = ModelBundle.load("roadworld-nano")
    with BundleServer(bundle) as server:
        stage = Stage(server, bundle)
        yield stage
        stage.model.close()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_newer_key_frame_ends_an_analysis_which_leaves_no_trace(stage: Stage) -> None:
    seeing, blind = Reasoner(stage.service), Reasoner(stage.service)

    def said_of(picture: int, *newer: int, late: bool = False) -> None:
        frame = stage.frame(picture)
        said = stage.analyse(seeing, frame, newer, late=late)
        assert replace(said, stages={}) == replace(blind.reason(frame), stages={})

    said_of(0, 1)  # Of the first one it is not known how long it will take.
    said_of(0, 0)
    said_of(1, 0, late=True)
    said_of(1, 1)
    assert seeing.overtaken == 0
    with pytest.raises(OvertakenError):
        stage.analyse(seeing, stage.frame(2), (2, 2, 0))
    assert seeing.overtaken == 1 and not seeing.is_analysing
    said_of(0)
    version = [each.set_instruction("look for cones") for each in (seeing, blind)]
    assert version == [1, 1]
    said_of(0)
    wait(lambda: stage.server.at_work == 0)


def test_a_scene_that_changes_on_every_frame_is_answered_about(stage: Stage) -> None:
    reasoner = Reasoner(stage.service)
    stage.analyse(reasoner, stage.frame(0), (0,))
    given_up = 0
    for index in range(1, 7):
        try:
            said = stage.analyse(reasoner, stage.frame(index % 4), ((index + 1) % 4,))
            assert said.is_keyframe and said.caption
        except OvertakenError:
            given_up += 1
    assert given_up == reasoner.overtaken == 1
    assert stage.analyse(reasoner, stage.frame(3), (3,)).caption, "it has come to rest"
    with pytest.raises(OvertakenError):
        stage.analyse(reasoner, stage.frame(3), (1,))
