# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server: images, probabilities, answers to a schema, and slots that it tells of."""

from __future__ import annotations

import json
import math
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import faulty_proxy
from support.faulty_proxy import FaultyProxy
from support.real_servers import LONG_S
from typer.testing import CliRunner

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.cli import app
from vlm_perception.evaluation.judge import rubric
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.served.connection import Connection, Request, ServedError
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import Fault
from vlm_perception.training.distillation.teacher import served, words
from vlm_perception.types import UNKNOWN

COUNT = QuestionSpec(
    name="count", question="How many?", choices=tuple(str(number) for number in range(20))
)
"""With so many letters some are among the likeliest tokens, though the model is a random one."""
MESSAGES = [{"role": "user", "content": "What is ahead?"}]
LONG_TEXT = 6000


@pytest.fixture
def connection(served_llama):
    connection = Connection(Endpoint(served_llama.url, served_llama.model))
    yield connection
    connection.close()


def is_at_work(server):
    with urllib.request.urlopen(f"{server.url.removesuffix('/v1')}/slots") as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def test_the_likeliest_tokens_come_with_their_probabilities(connection):
    request = Request(MESSAGES, max_tokens=100, top_logprobs=5)
    tokens = [
        token for piece in connection.stream(request, budget_s=LONG_S) for token in piece.logprobs
    ]
    assert tokens
    for token in tokens:
        assert token.logprob <= 0.0
        assert 0.0 < sum(map(math.exp, token.top.values())) < 1.0 + 1e-3


def test_an_image_is_read_and_its_letters_have_probabilities(served_llama):
    settings = ServedSettings(
        language=SERVED, endpoint=served_llama.url, model=served_llama.model, slots=1
    )
    model = ServedModel(Connection(settings.checked_endpoint()), settings)
    assert model.find_abilities().log_probabilities
    found = []
    for level in (0, 255):
        shown = model.show(np.full((90, 160, 3), level, np.uint8))
        masses = model.letter_masses(shown, COUNT, wait_s=LONG_S)
        assert (masses >= 0.0).all() and 0.0 < masses.sum() <= 1.0
        found.append(masses)
        answer = model.answer(shown, model.pack([COUNT]), wait_s=LONG_S)[0]
        assert answer.value in (*COUNT.choices, UNKNOWN)
    assert not np.allclose(*found), "it sees that the images differ"
    model.close()


def test_an_answer_keeps_to_a_schema(connection):
    choices = ["red", "green"]
    schema = {
        "type": "object",
        "properties": {"light": {"enum": choices}},
        "required": ["light"],
        "additionalProperties": False,
    }
    request = Request(MESSAGES, max_tokens=200, schema=schema)
    answer = "".join(piece.text for piece in connection.stream(request, budget_s=LONG_S))
    assert json.loads(answer)["light"] in choices


def test_a_request_waits_until_the_slot_of_a_cancelled_one_is_free(served_llama):
    proxy = FaultyProxy(served_llama.url)
    connection = Connection(Endpoint(proxy.url, served_llama.model))
    cancelled = connection.stream(Request(MESSAGES, max_tokens=LONG_TEXT), budget_s=LONG_S)
    next(cancelled)
    assert is_at_work(served_llama)
    cancelled.close()
    following = connection.stream(Request(MESSAGES, max_tokens=1), budget_s=LONG_S)
    assert list(following)[-1].finish == "length"
    first, *between, last = proxy.requests
    assert first == last == "POST /v1/chat/completions"
    assert set(between) == {"GET /slots"}
    connection.close()
    proxy.close()


def test_a_server_with_another_model_is_refused_by_name(served_llama):
    other = Connection(Endpoint(served_llama.url, "another"))
    with pytest.raises(ServedError, match=served_llama.model) as caught:
        other.check(LONG_S).result()
    assert caught.value.fault is Fault.MODEL
    other.close()


def test_what_a_server_says_of_a_request_is_passed_on(connection):
    long = [{"role": "user", "content": "x" * 4 * LONG_TEXT}]
    with pytest.raises(ServedError, match="context size") as caught:
        list(connection.stream(Request(long, max_tokens=1), budget_s=LONG_S))
    assert caught.value.fault is Fault.REQUEST
    assert not connection.issue()


@dataclass(frozen=True)
class GoneOnceThere(faulty_proxy.Fault):
    """Answers until a file is there."""

    file: Path

    def spoil(self, parts, proxy):
        if not self.file.exists():
            yield from parts


def test_a_teacher_is_asked_on_where_its_server_was_gone(served_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(served, "MOST_TOKENS", 8)
    monkeypatch.setattr(served, "PAUSES_S", (0.01,))
    monkeypatch.setattr(words, "VIEWS_PER_FILE", 1)
    (tmp_path / "photos").mkdir()
    for level in (0, 255):
        cv2.imwrite(str(tmp_path / f"photos/{level}.png"), np.full((36, 64, 3), level, np.uint8))
    proxy = FaultyProxy(served_llama.url)
    content = {
        "name": "x",
        "images": {"kind": "folder", "path": "photos"},
        "teacher": {
            "language": {"endpoint": proxy.url, "model": served_llama.model},
            "questions": [COUNT.model_dump(mode="json")],
        },
    }
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(json.dumps(content))
    first = out / "teacher.unfinished/store/language/000000000.jsonl"
    proxy.fault = GoneOnceThere(first)
    result = CliRunner().invoke(app, ["distil", str(recipe), "--out", str(out)])
    assert result.exit_code == 1, result.output
    told = " ".join(result.output.split())
    assert "ended the connection without an answer" in told and "the same command goes on" in told
    assert len(list(first.parent.glob("*.jsonl"))) == 1
    before = first.read_bytes()
    proxy.fault = faulty_proxy.Fault()
    assert CliRunner().invoke(app, ["distil", str(recipe), "--out", str(out)]).exit_code == 0
    files = sorted((out / "teacher/store/language").glob("*.jsonl"))
    assert files[0].read_bytes() == before
    black, white = (json.loads(file.read_text()) for file in files)
    for said in (black, white):
        assert "".join(said["tokens"]).strip() == said["caption"]
        assert len(said["log_probabilities"]) == len(said["tokens"]) == 8
        assert not said["ended"]
        assert len(said["answers"]["count"]) in (0, len(COUNT.choices))
    assert black["log_probabilities"] != white["log_probabilities"]
    proxy.close()
    other = CliRunner().invoke(app, ["distil", str(recipe), "--out", str(tmp_path / "other")])
    assert other.exit_code == 2
    assert "no server listens at" in " ".join(other.output.split())


def test_a_judge_of_random_weights_is_an_error(served_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(rubric, "MAX_TOKENS", 8)
    served = ["--model", served_llama.model, "--endpoint", served_llama.url]
    arguments = ["evaluate", "judge", "--scenes", "1", *served, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    told = " ".join(result.output.split())
    assert "gave no usable answer" in told and "at the limit of tokens" in told
