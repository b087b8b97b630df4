# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Talking to a served model: the shipped student behind `transformers serve`."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
from support.real_servers import KEY, LONG_S, QUESTION, ask

from vlm_perception.perception.served.connection import Connection, ServedError
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import Fault


@pytest.fixture
def connection(served_student):
    connection = Connection(Endpoint(served_student.url, served_student.model, KEY))
    yield connection
    connection.close()


def test_an_answer_comes_in_pieces_and_is_the_same_each_time(connection):
    first, again = (list(connection.stream(ask(), budget_s=LONG_S)) for _ in range(2))
    assert [piece.text for piece in first] == [piece.text for piece in again]
    assert len(first) > 3
    assert [bool(piece.finish) for piece in first] == [False] * (len(first) - 1) + [True]
    cut = list(connection.stream(ask(max_tokens=2), budget_s=LONG_S))
    assert cut[-1].finish == "length"
    figures = connection.figures()
    assert (figures["requests"], figures["failed"], figures["cancelled"]) == ("3", "0", "0")
    assert float(figures["first_token_p95_ms"]) > 0.0


def test_a_server_is_asked_what_it_serves(connection, served_student):
    info = connection.check(LONG_S).result()
    assert info.model == served_student.model
    assert info == connection.check(LONG_S).result()
    other = Connection(Endpoint(served_student.url, "another/model"))
    with pytest.raises(ServedError, match=served_student.model) as caught:
        other.check(LONG_S).result()
    assert caught.value.fault is Fault.MODEL
    other.close()


def test_a_closed_stream_is_cancelled_and_makes_room(connection):
    for _ in range(3):
        stream = connection.stream(ask(), budget_s=LONG_S)
        next(stream)
        stream.close()
        assert list(stream) == []
    # Dropped is closed.
    next(connection.stream(ask(), budget_s=LONG_S))
    assert list(connection.stream(ask(), budget_s=LONG_S))[-1].finish
    assert connection.figures()["cancelled"] == "4"


def test_another_thread_may_close_while_one_waits(connection):
    first = connection.stream(ask(), budget_s=LONG_S)
    waiting = connection.stream(ask(), budget_s=LONG_S)
    threading.Timer(0.05, waiting.close).start()
    assert list(waiting) == []
    assert list(first)[-1].finish


def test_what_does_not_come_in_time_fails(connection):
    for limits in ({"budget_s": 0.02}, {"budget_s": LONG_S, "total_s": 0.02}):
        with pytest.raises(ServedError, match=r"restart|more time"):
            list(connection.stream(ask(), **limits))
    assert list(connection.stream(ask(), budget_s=LONG_S))[-1].finish
    assert connection.figures()["failed"] == "2"


def test_closing_ends_what_is_under_way_and_all_that_comes_later(served_student):
    connection = Connection(Endpoint(served_student.url, served_student.model))
    stream = connection.stream(ask(), budget_s=LONG_S)
    next(stream)
    connection.close()
    for work in (lambda: list(stream), lambda: connection.stream(ask(), budget_s=LONG_S)):
        with pytest.raises(ServedError) as caught:
            work()
        assert caught.value.fault is Fault.CLOSED
    assert "served" not in {thread.name for thread in threading.enumerate()}


def test_nothing_of_a_request_is_logged(connection, caplog):
    caplog.set_level(logging.DEBUG)
    request = ask()
    list(connection.stream(request, budget_s=LONG_S))
    with pytest.raises(ServedError):
        list(connection.stream(ask(max_tokens=-1), budget_s=LONG_S))
    image = request.messages[0]["content"][0]["image_url"]["url"]
    for secret in (KEY, QUESTION, image[-40:]):
        assert secret not in caplog.text


def test_the_http_client_is_imported_only_where_a_model_is_served(monkeypatch):
    code = (
        "import sys; import vlm_perception.perception.served.connection; "
        "sys.exit('httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "vlm_perception.perception.served.transport", raising=False)
    with pytest.raises(ServedError, match="pip install httpx2"):
        Connection(Endpoint("http://127.0.0.1:1/v1", "m"))
