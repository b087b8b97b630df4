# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images get the captions that they lack, every failure is explained, and no answer is lost."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.curation import curate, lines, write_recipe
from support.faulty_proxy import FaultyProxy
from support.scripted_judge import MODEL, ScriptedJudge

from vlm_perception.curation.captioning import captioner as captioning
from vlm_perception.curation.captioning.captioned import IMAGES_PER_TASK
from vlm_perception.curation.captioning.captioner import (
    Caption,
    Captioner,
    open_captioner,
)
from vlm_perception.curation.captioning.writer import Answer, NoAnswerError
from vlm_perception.curation.recipe import Captions, read_recipe

CAPTIONED = "02_captioned"


def photos(folder, count, captions=()):
    """Images that are no copies of each other; some with captions, in their order."""
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{seed:03d}.png"), cv2.resize(coarse, (64, 48)))
    known = [
        {"image": f"{seed:03d}.png", "captions": [text], "language": language}
        for seed, language, text in captions
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known))


def prepare(root, captioner, kind="folder", **captions):
    return write_recipe(
        root / "set",
        sources=[{"kind": kind, "path": "../photos"}],
        filter={"phash_distance": None, "min_side": 1},
        captions={"captioner": captioner, **captions},
    )


def endpoint(server, **more):
    return {"kind": "endpoint", "url": server.url, "model": MODEL, **more}


@pytest.fixture
def server():
    judge = ScriptedJudge(lambda prompt: "a red  bus\n")
    yield judge
    judge.close()


def test_only_what_is_missing_is_asked_for_and_only_once(tmp_path, server):
    there = [(0, "en-GB", "a tram"), (1, "de", "ein Bus"), (2, "und", "x"), (3, "en", "a car")]
    photos(tmp_path / "photos", 4, there)
    prompts = {"de": "Beschreibe das Bild."}
    folder = prepare(
        tmp_path, endpoint(server), "captions", languages=["en", "de"], prompts=prompts
    )
    assert f"5 captions by {MODEL}" in curate("run", folder)
    asked = Counter(server.prompts)
    assert asked.pop(prompts["de"]) == 3
    assert list(asked.values()) == [2]
    kept = lines(folder, CAPTIONED, "kept")
    told = [[(each["language"], each["text"]) for each in record["captions"]] for record in kept]
    assert told[0] == [("en-GB", "a tram"), ("de", "a red bus")]
    assert told[2] == [("und", "x"), ("en", "a red bus"), ("de", "a red bus")]
    assert [record["written"] for record in kept] == [["de"], ["en"], ["en", "de"], ["de"]]
    first = (folder / CAPTIONED / "kept.jsonl").read_bytes()
    curate("run", folder, "--redo", CAPTIONED)
    assert len(server.prompts) == 5
    assert (folder / CAPTIONED / "kept.jsonl").read_bytes() == first
    # How answers are got makes no difference to them.
    asked = {"slots": 3, "timeout_s": 9.0, "key_file": "key", "allow_plain_http": True}
    prepare(
        tmp_path, endpoint(server, **asked), "captions", languages=["en", "de"], prompts=prompts
    )
    assert "stale" not in curate("status", folder)


def test_what_fails_is_listed_with_every_answer(tmp_path, server, monkeypatch):
    monkeypatch.setattr(captioning, "BACKOFF_S", 0.0)
    photos(tmp_path / "photos", 5)
    script = iter(
        [*(["", " ... ", "a bus"]), *(["!", 500, "", "?"]), *([429, 429, 503]), 400, "a tree"]
    )
    server.answer = lambda prompt: next(script)
    folder = prepare(tmp_path, endpoint(server))
    told = curate("run", folder)
    assert "5 received, 2 kept, 0 rejected, 3 failed (1 the answer has no letter or digit," in told
    assert f"2 images got no answer in the end; --redo {CAPTIONED}" in told
    failed = lines(folder, CAPTIONED, "failed")
    answers = [[each.get("text", each["fault"]) for each in one["answers"]] for one in failed]
    rate, ready = "the server is asked too often", "the server is not ready"
    refused = "the server refuses this one request"
    assert answers == [["!", "the server fails", "", "?"], [rate, rate, ready], [refused]]
    # An attempt without an answer is made again, and one with an answer by another sampling.
    temperatures = [body["temperature"] for body in server.asked]
    assert temperatures == [0, 0.7, 0.7, 0, 0.7, 0.7, 0.7, 0, 0, 0, 0, 0]
    assert server.asked[1]["seed"] != server.asked[2]["seed"]
    assert [record["captions"][0]["text"] for record in lines(folder, CAPTIONED, "kept")] == [
        "a bus",
        "a tree",
    ]
    page = tmp_path / "set" / "report.html"
    curate("report", folder)
    for text in ("a bus", "no letter or digit", MODEL):
        assert text in page.read_text()
    # Whoever asks for them again is told what was answered, and asks only what was not.
    server.answer = lambda prompt: "a hill"
    curate("run", folder, "--redo", CAPTIONED)
    texts = [record["captions"][0]["text"] for record in lines(folder, CAPTIONED, "kept")]
    assert texts == ["a bus", "a hill", "a hill", "a tree"]
    assert len(server.asked) == 14


@pytest.mark.parametrize("status", [500, 400])
def test_a_captioner_that_is_down_stops_the_run_which_goes_on_later(
    tmp_path, server, monkeypatch, status
):
    monkeypatch.setattr(captioning, "FAILURES", 10)
    photos(tmp_path / "photos", IMAGES_PER_TASK + 4)
    server.answer = lambda prompt: status
    folder = prepare(tmp_path, endpoint(server, slots=2), tries=1)
    assert "10 images in a row got no answer" in curate("run", folder, code=1)
    assert "unfinished" in curate("status", folder)
    # The images of the next task are not asked for.
    assert 10 <= len(server.asked) <= IMAGES_PER_TASK
    # Those that failed so far are asked for again.
    server.asked.clear()
    server.answer = lambda prompt: "a bus"
    curate("run", folder, "--to", CAPTIONED)
    assert len(lines(folder, CAPTIONED, "kept")) == len(server.asked) == IMAGES_PER_TASK + 4


def test_no_image_fails_because_the_server_is_gone(tmp_path, server):
    photos(tmp_path / "photos", 20)
    proxy = FaultyProxy(server.url)
    server.answer = lambda prompt: (len(server.asked) == 17 and proxy.close()) or "a bus"
    told = curate("run", prepare(tmp_path, endpoint(proxy), tries=1), code=1)
    assert "3 images got no answer" in told and "no server listens" in told
    # The same model elsewhere: what it has answered counts.
    folder = prepare(tmp_path, endpoint(server))
    curate("run", folder)
    assert (len(lines(folder, CAPTIONED, "kept")), len(server.asked)) == (20, 20)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_what_ends_a_run_makes_ask_again_only_what_was_in_flight(tmp_path, server, sent):
    photos(tmp_path / "photos", 16)
    numbers, on, slots = itertools.count(), threading.Event(), 3
    server.answer = lambda prompt: (next(numbers) < 8 or on.wait(60)) and "a bus"
    folder = prepare(tmp_path, endpoint(server, slots=slots))
    # Shells let what they start in the background ignore Ctrl-C.
    program = ["env", "--default-signal=INT", Path(sys.executable).with_name("vlm-perception")]
    process = subprocess.Popen([*program, "curate", "run", folder], stdout=subprocess.DEVNULL)
    # Each slot asks for its next image when it has kept what was answered.
    while process.poll() is None and len(server.asked) < 8 + slots:
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait() == (130 if sent == signal.SIGINT else -sent)
    on.set()
    assert not (folder / CAPTIONED).exists()
    curate("run", folder, "--to", CAPTIONED)
    images = Counter(
        body["messages"][-1]["content"][0]["image_url"]["url"] for body in server.asked
    )
    assert len(images) == 16
    assert sum(images.values()) == 16 + slots


def test_further_attempts_are_other_answers_and_are_kept(tmp_path):
    photos(tmp_path / "photos", 1)
    folder = prepare(tmp_path, {"kind": "bundle", "path": "roadworld-nano"})
    curate("run", folder)
    (record,) = lines(folder, CAPTIONED, "kept")
    captioner = open_captioner(read_recipe(folder).captions, folder)
    assert record["captions"][0]["by"] == captioner.by
    answers = list(captioner.attempts(record, "en"))
    assert len(answers) == 3
    assert answers[0].text == record["captions"][0]["text"]
    again = open_captioner(read_recipe(folder).captions, folder)
    assert list(again.attempts(record, "en")) == answers
    texts = {each.text if isinstance(each, Caption) else each.answer for each in answers}
    assert len(texts) > 1
    assert len(list((folder / "journal").rglob("*.json"))) == 3


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        ({"languages": ["en", "fr"]}, "captions.prompts: {fr: ...}"),
        ({"languages": ["english language"]}, "no language"),
        ({"languages": ["en", "EN"]}, "named twice"),
        ({"languages": ["und"]}, "no language to write in"),
        ({"tries": 4}, "tries"),
        ({"prompts": {"de": "Was ist das?"}}, "none of the languages"),
        ({"captioner": {"kind": "bundle", "path": "nowhere"}}, "nowhere"),
        (
            {"captioner": {"kind": "endpoint", "url": "http://a.example/v1", "model": "m"}},
            "not on this machine",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(tmp_path, captions, sentence):
    photos(tmp_path / "photos", 1)
    captioner = {"kind": "bundle", "path": "roadworld-nano"}
    folder = prepare(tmp_path, **{"captioner": captioner, **captions})
    assert sentence in curate("run", folder, code=2)


def test_without_a_captioner_images_without_a_caption_fail(tmp_path):
    photos(tmp_path / "photos", 2, [(0, "en", "a bus"), (1, "de", "ein Bus")])
    folder = prepare(tmp_path, None, "captions")
    curate("run", folder)
    assert len(lines(folder, CAPTIONED, "kept")) == 1
    assert (
        "no caption in en, and the recipe names no captioner"
        in lines(folder, CAPTIONED, "failed")[0]["reason"]
    )


class Scripted:
    """Gives answers, and errors, in their order."""

    by, english, slots, settings = "scripted", "?", 1, {}

    def __init__(self, script):
        self.script, self.prompts = iter(script), []

    def check(self, prompt):
        """Any will do."""

    def interrupt(self):
        """Nothing is asked at the moment."""

    def write(self, image, prompt, sampling):
        self.prompts.append((prompt, sampling.temperature))
        come = next(self.script)
        if come is None:
            raise NoAnswerError("none", "none came", again=True, absent=False)
        return come


ANSWERS = st.sampled_from(
    [None, Answer("", True), Answer("a b", False), Answer("\x07", True), Answer("a bus", True)]
)


@settings(max_examples=20, deadline=None)
@given(script=st.lists(ANSWERS, min_size=12, max_size=12), tries=st.integers(1, 3))
def test_tries_end_with_the_first_caption_and_answers_are_asked_for_once(
    tmp_path_factory, script, tries
):
    folder = tmp_path_factory.mktemp("set")
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8, 3), np.uint8))
    record = {"file": "a.png", "sha256": "ab" * 32}
    writer = Scripted(script)
    captioner = Captioner(writer, Captions(tries=tries), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioning, "BACKOFF_S", 0.0)
        came = captioner.try_caption(record, "en")
        told = script[: len(writer.prompts)]
        good = Answer("a bus", True)
        answered = sum(each is not None for each in told)
        assert answered <= tries and told.count(None) <= tries and good not in told[:-1]
        assert isinstance(came, Caption) == (told[-1] == good)
        if isinstance(came, list):
            assert [each.answer for each in came] == [each and each.text for each in told]
            assert tries in (answered, told.count(None))
        # Only what got no answer is asked for again, as if nothing had been in between.
        again = captioner.try_caption(record, "en")
        asked = script[: len(writer.prompts)]
        assert asked == told or told.count(None) == tries
        answers = [each for each in asked if each is not None][:tries]
        assert isinstance(again, Caption) == (good in answers)
