# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A served model is asked where a phrase is: its boxes in the camera image, or an error."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from support.faulty_proxy import Fault, FaultyProxy, Say
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.perception.language.served.abilities import Abilities
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.choice import format_of_served
from vlm_perception.perception.locating.model import ModelLocator
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, LocatedBox

KNOWN = Abilities(log_probabilities=False, guided=False, cold_s=1.0, warm_s=1.0)
LONG_S = 60.0


def said(text: str, finish: str = "stop") -> Say:
    """A stream with a text in two pieces."""
    half = len(text) // 2
    choices = [{"delta": {"content": part}} for part in (text[:half], text[half:])]
    choices.append({"delta": {}, "finish_reason": finish})
    events = "".join(f"data: {json.dumps({'choices': [each]})}\n\n" for each in choices)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    return Say(f"{head}{events}data: [DONE]\n\n".encode())


class InTurn(Fault):
    """Does something else with each request."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = itertools.cycle(faults)

    def spoil(self, parts: Iterator[bytes], proxy: FaultyProxy) -> Iterator[bytes]:
        return next(self._faults).spoil(parts, proxy)


@pytest.fixture(scope="module")
def frame() -> Embedding:
    pixels = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    image = np.kron(pixels, np.ones((20, 20, 1), "u1"))
    return VisionEncoder(ModelBundle.load("roadworld-nano")).encode(Frame(image, 1), 0)


@pytest.fixture
def proxy(served_student) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(served_student.url)
    yield proxy
    proxy.close()


Ask = Callable[..., tuple[LocatedBox, ...]]


@pytest.fixture
def ask(proxy, served_student, frame) -> Iterator[Ask]:
    """Asks the server behind the proxy for boxes in a format."""
    made: list[ServedModel] = []

    def ask(name: str, fault: Fault | None = None) -> tuple[LocatedBox, ...]:
        proxy.fault = fault or Fault()
        settings = ServedSettings(
            language=SERVED,
            endpoint=proxy.url,
            model=served_student.model,
            locate_format=name,
            frames=2,
        )
        link = Connection(settings.checked_endpoint())
        made.append(ServedModel(link, settings, abilities=KNOWN))
        locator = ModelLocator(made[-1], format_of_served(settings))
        return locator.locate(frame, "the red cone", wait_s=LONG_S)

    yield ask
    for each in made:
        each.close()


def test_boxes_are_those_of_the_camera_image(ask: Ask) -> None:
    """1280x720 is sent as 768x432, which the processor of Qwen2.5-VL makes 756x420 of."""
    text = (
        '```json\n[\n\t{"bbox_2d": [0, 0, 756, 420], "label": "cone"},\n\t{"bbox_2d": [189, 105, '
    )
    whole, part = ask("qwen2.5-vl", said(text + '378, 210], "label": "cone"}\n]\n```'))
    assert (whole.x, whole.y, whole.width, whole.height) == pytest.approx((0, 0, 1280, 720))
    assert (part.x, part.y, part.width, part.height) == pytest.approx((320, 180, 320, 180))
    assert math.isnan(whole.score)
    (found,) = ask("qwen3-vl", said('[{"bbox_2d": [250, 500, 500, 1000], "label": "cone"}]'))
    assert (found.x, found.y, found.width, found.height) == pytest.approx((320, 360, 320, 360))
    assert ask("paligemma", said("")) == ()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (said('[{"bbox_2d": [250, 500, 500, "x"], "label": "cone"}]'), "no number: .*bbox_2d"),
        (said('[{"bbox_2d": [250, 500, 500, 1000], "la', "length"), "cut off .*bbox_2d"),
        (said('[{"bbox_2d": [250, 500, 500, 1000], "label": "cone"}]', "length"), "cut off"),
    ],
)
def test_a_wrong_answer_is_an_error_that_shows_it(ask: Ask, fault: Fault, message: str) -> None:
    with pytest.raises(LocateError, match=message):
        ask("qwen3-vl", fault)


def test_a_model_that_writes_prose_gives_no_box(ask: Ask) -> None:
    with pytest.raises(LocateError, match=r"did not answer with boxes \(qwen3-vl\).*: '.+'; try"):
        ask("qwen3-vl")


def test_the_command_asks_a_server(proxy, served_student, tmp_path) -> None:
    picture, file = tmp_path / "street.png", tmp_path / "boxes.json"
    Image.new("RGB", (1280, 720)).save(picture)
    given = ["locate", str(picture), "the red cone", "--json", str(file), "--method", "model"]
    given += ["--served", served_student.model, "--endpoint", proxy.url]

    def told(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*given, *more])
        return result.exit_code, " ".join(result.output.split())

    proxy.fault = said('[{"bbox_2d": [250, 500, 500, 1000], "label": "cone"}]')
    assert told("--locate-format", "qwen3-vl")[0] == 0
    ((box,),) = (each["boxes"] for each in json.loads(file.read_text())["phrases"])
    assert (box["x"], box["y"], box["width"], box["height"]) == (320, 360, 320, 360)
    assert box["score"] is None
    proxy.fault = said("It is on the left.")
    code, words = told("--locate-format", "qwen3-vl")
    assert code == 2 and "'It is on the left.'" in words
    # What can be read is not lost with what cannot.
    proxy.fault = InTurn(said('{"bbox_2d": [0, 0, 500, 1000]}'), said("It is on the left."))
    code, words = told("a car", "--locate-format", "qwen3-vl")
    assert code == 1 and "failed" in words and "'It is on the left.'" in words
    told_of = [set(each) - {"phrase"} for each in json.loads(file.read_text())["phrases"]]
    assert sorted(map(sorted, told_of)) == [["boxes"], ["error"]]
    code, words = told()
    assert code == 2 and "is not known to write boxes" in words
    code, words = told("--locate-format", "guess")
    assert code == 2 and "'guess' is no format of boxes" in words
    given[given.index("model")] = "patch"
    code, words = told()
    assert code == 2 and "is for --method model" in words
