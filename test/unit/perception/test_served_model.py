# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model behind a server, asked like a bundle's own: by a real server of a real model."""

from __future__ import annotations

import base64
import itertools
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.engines.steps import Work
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer, Manner
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.language.served.answer_sheet import filled, sheet
from vlm_perception.perception.language.served.letters import LEAST_MASS, answered, lettered, masses
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.language.served.shown_before import ShownBefore
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.known import FORMATS
from vlm_perception.perception.locating.model import ModelLocator
from vlm_perception.perception.reasoning.degradation import LEVELS
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.question_answering import AskError
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import UNKNOWN, Embedding, Frame

WEATHER = QuestionSpec(name="weather", question="what weather", choices=("clear", "rain", "fog"))


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.load("roadworld-nano")


@pytest.fixture(scope="module")
def server(bundle: ModelBundle) -> Iterator[BundleServer]:
    with BundleServer(bundle) as server:
        yield server


@pytest.fixture(scope="module")
def seen(bundle: ModelBundle) -> Embedding:
    pixels = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    return VisionEncoder(bundle).encode(Frame(np.kron(pixels, np.ones((8, 8, 1), "u1")), 1), 0)


def connected(
    bundle: ModelBundle,
    url: str,
    model: str = MODEL,
    frames: int = 1,
    deadline_s: float = ServedSettings.served_deadline,
    **clock: Any,
) -> ServedModel:
    spec = bundle.manifest.language
    assert spec is not None
    chosen = ServedSettings(
        language=SERVED,
        endpoint=url,
        model=model,
        caption_prompt=spec.caption_prompt,
        frames=frames,
        served_deadline=deadline_s,
    )
    return ServedModel(Connection(chosen.checked_endpoint()), chosen, **clock)


@pytest.fixture(scope="module")
def served(bundle: ModelBundle, server: BundleServer) -> Iterator[ServedModel]:
    model = connected(bundle, server.url, clock=lambda: float(server.looks))
    yield model
    model.close()


def test_it_says_what_the_bundle_says(
    bundle: ModelBundle, served: ServedModel, server: BundleServer, seen: Embedding
) -> None:
    """But for what the JPEG has changed of the image, which is sent as it is for all questions."""
    service = LanguageService(bundle, language=served)
    service.warm_up()
    server.bodies.clear()
    said = service.analyse(seen, "", 0)
    assert said.caption
    pictures = {json.dumps(body["messages"][0]["content"][0]) for body in server.bodies}
    assert len(pictures) == 1 and len(server.bodies) == 1 + len(bundle.manifest.questions)
    assert all(body["stream"] for body in server.bodies)
    other = replace(seen, sequence=1)
    service.analyse(other, "", len(LEVELS) - 1)
    assert size_of(server.bodies[-1]) == (384, 216), "less effort: half of the usual 768"
    again = service.analyse(seen, "", 0)
    assert size_of(server.bodies[-1]) == (512, 288), "never enlarged"
    assert (again.caption, again.attributes) == (said.caption, said.attributes)
    assert "letters" in served.figures()["answers"] and not served.issue()


def test_a_phrase_is_looked_for_in_one_frame(
    bundle: ModelBundle, server: BundleServer, seen: Embedding
) -> None:
    model = connected(bundle, server.url, frames=2)
    model.remember(model.read(seen))
    later = replace(seen, stamp_ns=2, sequence=1)
    assert len(model.read(later).images) == 2
    with pytest.raises(LocateError, match="did not answer with boxes"):
        ModelLocator(model, FORMATS["qwen3-vl"]).locate(later, "the red cone")
    picture, text = server.bodies[-1]["messages"][0]["content"]
    assert picture["type"] == "image_url"
    assert text["text"] == FORMATS["qwen3-vl"].prompt("the red cone")
    assert server.bodies[-1]["temperature"] == 0
    model.close()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=30), st.integers(1, 4)
)
def test_before_a_frame_is_what_its_camera_saw_before(
    frames: list[tuple[str, int]], most: int
) -> None:
    before = ShownBefore(most)
    shown: dict[str, list[tuple[int, str]]] = {"a": [], "b": []}
    for index, (run, second) in enumerate(frames):
        images = before.of(run, second * 10**9)
        assert len(images) < most
        past = {number: then for then, number in shown[run]}
        for image in images:
            assert second and 0 < second - past[image] <= 10, "of this camera, and not long ago"
        assert list(images) == sorted(images, key=int), "the oldest first"
        before.add(run, second * 10**9, str(index))
        shown[run].append((second, str(index)))
    steady = ShownBefore(most)
    for index in range(6):
        assert len(steady.of("run", (index + 1) * 10**9)) == min(most - 1, index)
        steady.add("run", (index + 1) * 10**9, str(index))


def test_a_server_is_sent_as_many_images_as_it_takes(bundle: ModelBundle, seen: Embedding) -> None:
    with BundleServer(bundle) as server:
        model = connected(bundle, server.url, frames=3)
        service = LanguageService(bundle, language=model)
        service.warm_up()
        for index in range(4):
            service.analyse(replace(seen, sequence=index, stamp_ns=(index + 1) * 10**9), "", 0)
        content = server.bodies[-1]["messages"][0]["content"]
        assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]
        model.close()


def size_of(body: dict[str, Any]) -> tuple[int, int]:
    """Width and height of the image of a request."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    height, width, _, _ = simplejpeg.decode_jpeg_header(base64.b64decode(url.partition(",")[2]))
    return width, height


def test_what_a_server_can_do_is_seen_in_its_answers(bundle: ModelBundle, seen: Embedding) -> None:
    for able in ({"log_probabilities": False}, {"guided": False, "log_probabilities": False}):
        with BundleServer(bundle, Manner(**able)) as server:
            model = connected(bundle, server.url, clock=lambda of=server: float(of.looks))
            packed = model.pack(bundle.manifest.questions)
            answers = model.answer(model.read(seen), packed)
            figures = model.figures()
            assert figures["answers"] == "one JSON object"
            assert figures["guided_answers"] == str(able.get("guided", True)).lower()
            assert figures["prefix_cache"].startswith("true")
            assert len(server.bodies[-1]["messages"]) == 1, "all questions at once"
            server.manner = Manner(piece_s=0.25, **able)
            with pytest.raises(ServedError, match="not whole"):
                model.answer(model.read(seen), packed, wait_s=0.3)
            model.close()
        assert all(each.probabilities == () for each in answers), "none were given"
        if able.get("guided", True):
            own = LanguageModel(bundle)
            expected = own.answer(own.read(seen), own.pack(bundle.manifest.questions))
            same = sum(a.value == b.value for a, b in zip(answers, expected, strict=True))
            assert same >= len(expected) - 1, "a JPEG may turn over one"
            assert not model.concern()
        else:
            assert {each.value for each in answers} == {UNKNOWN}
            assert "with one of their choices" in model.concern()


def test_users_questions_are_answered_as_by_a_bundle(
    bundle: ModelBundle, served: ServedModel, seen: Embedding
) -> None:
    asker = LanguageService(bundle, language=served).asker
    free = asker.ask(lambda: seen, "what is ahead", timeout=20.0, max_tokens=6)
    assert free.text and free.confidence is not None and 0.0 < free.confidence <= 1.0
    description = asker.describe(seen, "", max_tokens=40)
    pieces = list(description)
    assert description.finished and "".join(pieces) == description.text
    with pytest.raises(AskError, match="at most 1000"):
        asker.ask(lambda: seen, "x" * 2000, timeout=20.0, max_tokens=6)
    with pytest.raises(PromptError, match="20 at most"):
        served.pack([WEATHER.model_copy(update={"choices": tuple(map(str, range(21)))})])


def test_a_description_that_is_given_up_ends_at_the_server(
    bundle: ModelBundle, served: ServedModel, server: BundleServer, seen: Embedding
) -> None:
    shown = served.read(seen)
    for end in ("close", "interrupt"):
        before = len(server.bodies)
        written = served.write(shown, served.caption_prompt, max_tokens=40)
        assert next(written).text
        if end == "close":
            written.close()
        else:
            served.interrupt()
            with pytest.raises(ServedError, match="was ended"):
                list(written)
            with pytest.raises(ServedError, match="was ended"):
                served.generate(shown, served.caption_prompt, max_tokens=1)
            served.resume()
        assert len(server.bodies) == before + 1
    assert served.generate(shown, served.caption_prompt, max_tokens=40).finished, "the next one"


def test_a_server_that_comes_later_is_found(bundle: ModelBundle, seen: Embedding) -> None:
    server = BundleServer(bundle)
    with server:
        pass  # It has a port now.
    model = connected(bundle, server.url)
    service = LanguageService(bundle, language=model)
    service.warm_up()
    assert server.url in model.issue()
    with pytest.raises(ServedError):
        service.analyse(seen, "", 0)
    with server:
        deadline = time.monotonic() + 20.0
        while model.issue() and time.monotonic() < deadline:
            if model.may_be_asked():
                try:
                    service.analyse(seen, "", 0)
                except ServedError:
                    continue
        assert service.analyse(seen, "", 0).caption
    assert not model.issue()
    model.close()


def test_a_look_that_was_ended_tells_nothing_of_the_server(
    bundle: ModelBundle, seen: Embedding
) -> None:
    with BundleServer(bundle, Manner(piece_s=5.0)) as server:
        model = connected(bundle, server.url)
        with Work("test") as work, ThreadPoolExecutor(1) as pool:

            def end() -> None:
                while not (server.at_work and work.end_step()):
                    time.sleep(0.01)

            ending = pool.submit(end)
            with pytest.raises(ServedError, match="was ended"):
                model.find_abilities()
            ending.result()
        assert "not known" in model.figures()["answers"], "nor what it can do"
        assert not model.issue() and model.may_be_asked()
        server.manner = Manner()
        assert model.answer(model.read(seen), model.pack([WEATHER]))
        model.close()


def test_a_server_that_was_replaced_by_another_kind_is_asked_as_that_one(
    bundle: ModelBundle, seen: Embedding
) -> None:
    """Whether it was away meanwhile, and is called otherwise, or only its answers tell."""
    server, later_s = BundleServer(bundle), 0.0
    with server:
        model = connected(bundle, server.url, clock=lambda: server.looks + later_s)
        shown, packed = model.read(seen), model.pack([WEATHER, WEATHER])

        def requests() -> int:
            """Those that one analysis takes, after as many as it takes to notice."""
            model.answer(shown, packed)
            before = len(server.bodies)
            model.answer(shown, packed)
            return len(server.bodies) - before

        assert requests() == 2
    with pytest.raises(ServedError):
        model.answer(shown, packed)
    server.manner = Manner(log_probabilities=False, software="another")
    with server:
        assert len(model.answer(shown, packed)) == 2 and requests() == 1
        server.manner = Manner(guided=False, software="another")
        later_s = 1000.0
        model.answer(shown, packed)
        assert model.figures()["guided_answers"] == "true"
        assert requests() == 2 and "letters" in model.figures()["answers"]
        server.manner = Manner(guided=False, log_probabilities=False, software="another")
        assert requests() == 2, "not tried out again so soon"
        later_s = 2000.0
        model.answer(shown, packed)
        assert requests() == 1
    model.close()


@pytest.mark.parametrize("end", [ServedModel.interrupt, ServedModel.close])
def test_a_server_that_says_nothing_of_itself_is_not_waited_for(
    bundle: ModelBundle, end: Callable[[ServedModel], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, ThreadPoolExecutor(2) as pool:
        model = connected(bundle, f"http://127.0.0.1:{hanging.getsockname()[1]}/v1", deadline_s=600)
        asking = pool.submit(model.find_abilities)
        with hanging.accept()[0], Work("test") as work:

            def wait_for_its_turn() -> None:
                with work:
                    model.find_abilities()

            waiting = pool.submit(wait_for_its_turn)
            while not work.end_step():
                time.sleep(0.01)
            for each in (waiting, asking):
                with pytest.raises(ServedError) as raised:
                    each.result(20.0)
                assert raised.value.fault is Fault.CLOSED
                end(model)
        model.close()


def test_another_model_is_refused(bundle: ModelBundle, server: BundleServer) -> None:
    model = connected(bundle, server.url, "another/model")
    model.warm_up(model.pack([]))
    assert "another/model" in model.issue() and MODEL in model.issue()
    model.close()


LETTERS = st.dictionaries(
    st.sampled_from(["A", " A", "(B", "B.", "C)", "\nC", "the", "D", "AB", "a"]),
    st.floats(-20.0, 0.0),
)


@given(LETTERS, st.floats(0.1, 10.0))
def test_letters_are_summed_over_the_ways_to_write_them(
    alternatives: dict[str, float], temperature: float
) -> None:
    total = sum(map(math.exp, alternatives.values()))
    alternatives = {
        token: value - math.log(max(1.0, total)) for token, value in alternatives.items()
    }
    found = masses(alternatives, 3)
    ways = (("A", " A"), ("(B", "B."), ("C)", "\nC"))
    expected = [sum(math.exp(alternatives.get(way, -math.inf)) for way in each) for each in ways]
    assert found == pytest.approx(expected)
    attribute = answered(WEATHER.model_copy(update={"temperature": temperature}), found)
    if found.sum() < LEAST_MASS:
        assert (attribute.value, attribute.probabilities) == (UNKNOWN, ())
    else:
        assert sum(attribute.probabilities) == pytest.approx(1.0)
        likeliest = found[WEATHER.choices.index(attribute.value)]
        assert likeliest == pytest.approx(found.max()), "of two alike, either"


def test_questions_are_worded_with_letters() -> None:
    assert lettered(WEATHER).splitlines()[:4] == ["what weather", "A. clear", "B. rain", "C. fog"]


@given(
    st.dictionaries(st.sampled_from(["weather", "x"]), st.sampled_from(["Rain", " fog", "no", 3]))
)
def test_a_sheet_is_read_strictly(said: dict[str, object]) -> None:
    told = filled(f"```json\n{json.dumps(said)}\n```", [WEATHER])
    assert told is not None and told[0].probabilities == ()
    value = str(said.get("weather")).strip().lower()
    assert told[0].value == (value if value in WEATHER.choices else UNKNOWN)


@pytest.mark.parametrize("text", ["", "fog", "[1]", "{", '{"weather": ', "{" * 10_000, '"{}"x}'])
def test_what_is_no_sheet_is_none(text: str) -> None:
    assert filled(text, [WEATHER]) is None


def test_a_budget_cuts_a_text_and_nothing_else(
    bundle: ModelBundle, server: BundleServer, served: ServedModel, seen: Embedding
) -> None:
    ticks = itertools.count()
    hasty = connected(bundle, server.url, clock=lambda: float(next(ticks)))
    shown = served.read(seen)
    cut = hasty.generate(shown, served.caption_prompt, max_tokens=40, budget_s=2.5)
    hasty.close()
    assert cut.text and not cut.finished
    with pytest.raises(ServedError) as raised:
        served.answer(shown, served.pack([WEATHER]), wait_s=0.0)
    assert raised.value.fault in (Fault.BUSY, Fault.UNREACHABLE, Fault.SILENT, Fault.SLOW)
    assert "too slow" not in served.concern()
    while server.at_work:
        time.sleep(0.01)
    server.manner = Manner(piece_s=1.5)
    stalled = served.generate(shown, served.caption_prompt, max_tokens=40, budget_s=2.2)
    assert stalled.text and not stalled.finished and "too slow" in served.concern()
    server.manner = Manner()
    assert sheet([WEATHER]).count("\n") == 2
