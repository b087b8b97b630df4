# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Each way in which a served model can fail is told apart, bounded, and got over."""

from __future__ import annotations

import json
import socket
import ssl
import time

import pytest
import trustme
from support.faulty_proxy import Cut, Fault, FaultyProxy, Hang, Replace, Reply, Say
from support.real_servers import KEY, LONG_S, QUESTION, ask

from vlm_perception.perception.served.circuit import FAILURES, LONGEST_S
from vlm_perception.perception.served.connection import RETRIES, Connection, ServedError
from vlm_perception.perception.served.endpoint import Endpoint
from vlm_perception.perception.served.errors import Fault as Kind
from vlm_perception.perception.served.transport import LONGEST_EVENT

POST = "POST /v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "and "}}]}\n\n'
LEAK = json.dumps({"error": {"message": f"of {QUESTION}, with {KEY}"}}).encode()


@pytest.fixture
def proxy(served_student):
    proxy = FaultyProxy(served_student.url)
    yield proxy
    proxy.close()


@pytest.fixture
def connect(served_student):
    """Makes connections, whose clock the test may put forward."""
    made = []

    def connect(url, **options):
        made.append(Connection(Endpoint(url, served_student.model, KEY), **options))
        return made[-1]

    yield connect
    for each in made:
        each.close()


FAULTS = {
    "key": (Reply(401), Kind.KEY, 1),
    "forbidden": (Reply(403), Kind.KEY, 1),
    "no such model": (Reply(404), Kind.MODEL, 1),
    "too often": (Reply(429, headers=("Retry-After: 0.01",)), Kind.RATE, RETRIES + 1),
    "much too often": (Reply(429, headers=("Retry-After: 900",)), Kind.RATE, 1),
    "refused": (Reply(400, LEAK), Kind.REQUEST, 1),
    "failed": (Reply(500, LEAK), Kind.SERVER, 1),
    "not ready": (Reply(503), Kind.UNAVAILABLE, RETRIES + 1),
    "redirect": (Reply(307, headers=("Location: http://me:pw@example.org/v1",)), Kind.REDIRECT, 1),
    "web page": (Reply(200, b"<html>", kind="text/html"), Kind.FOREIGN, 1),
    "no stream": (Reply(200), Kind.GARBLED, 1),
    "no HTTP": (Say(b"220 ready for mail\r\n\r\n"), Kind.FOREIGN, 1),
    "no answer": (Cut(0), Kind.DROPPED, RETRIES + 1),
    "half an answer": (Cut(4), Kind.CUT, 1),
    "no end": (Say(STREAM + EVENT), Kind.CUT, 1),
    "wrong JSON": (Replace(b'"choices":[', b'"choices":{'), Kind.GARBLED, 1),
    "wrong types": (Say(STREAM + EVENT.replace(b'"and "', b"[1, 2]")), Kind.GARBLED, 1),
    "an error within": (Say(STREAM + EVENT + b"data: " + LEAK + b"\n\n"), Kind.SERVER, 1),
    "endless": (Say(STREAM, EVENT), Kind.ENDLESS, 1),
    "a huge event": (Say(STREAM + b"data: ", b"x" * 65536), Kind.ENDLESS, 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_apart(proxy, connect, name):
    proxy.fault, kind, times = FAULTS[name]
    with pytest.raises(ServedError) as caught:
        list(connect(proxy.url).stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is kind, caught.value
    assert proxy.count(POST) == times
    assert proxy.sent < 8 * LONGEST_EVENT
    for secret in (KEY, QUESTION, "me:pw"):
        assert secret not in str(caught.value)


def test_a_server_that_hangs_is_noticed_and_left_alone(proxy, connect):
    late = [0.0]
    connection = connect(proxy.url, clock=lambda: time.monotonic() + late[0])
    proxy.fault = Hang()
    for _ in range(FAILURES):
        assert not connection.issue()
        with pytest.raises(ServedError, match="restart"):
            list(connection.stream(ask(), budget_s=0.3))
    with pytest.raises(ServedError, match="restart") as caught:
        connection.stream(ask(), budget_s=LONG_S)
    assert caught.value.fault is Kind.OPEN
    proxy.released.set()
    proxy.fault = Fault()
    late[0] += LONGEST_S
    assert list(connection.stream(ask(2), budget_s=LONG_S))[-1].finish
    assert not connection.issue()


def test_an_answer_that_stops_halfway_is_given_up(proxy, connect):
    proxy.fault = Hang(STREAM + EVENT)
    with pytest.raises(ServedError, match="fewer tokens") as caught:
        list(connect(proxy.url).stream(ask(), budget_s=1.0))
    assert caught.value.fault is Kind.SLOW


def test_another_model_in_the_answer_is_an_error(proxy, connect, served_student):
    name = served_student.model.encode()
    proxy.fault = Replace(name, name[:-3] + b"xxx")
    with pytest.raises(ServedError, match="instead of") as caught:
        list(connect(proxy.url).stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is Kind.MODEL


def test_nothing_that_listens_is_refused_and_tried_again(connect):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        connection = connect(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(ServedError, match="no server listens") as caught:
            list(connection.stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is Kind.REFUSED
    assert connection.figures()["retries"] == str(RETRIES)


def test_a_certificate_must_be_of_a_known_authority(served_student, connect, tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    proxy = FaultyProxy(served_student.url, tls=context)
    with pytest.raises(ServedError, match="SSL_CERT_FILE") as caught:
        list(connect(proxy.url).stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is Kind.CERTIFICATE
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    assert list(connect(proxy.url).stream(ask(), budget_s=LONG_S))[-1].finish
    with pytest.raises(ServedError, match="does not speak TLS") as caught:
        list(connect(served_student.url.replace("http:", "https:")).stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is Kind.CERTIFICATE
    proxy.close()


def test_the_environment_leads_nowhere_else(proxy, connect, monkeypatch):
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        assert list(connect(proxy.url).stream(ask(), budget_s=LONG_S))[-1].finish


def test_a_name_that_leads_to_another_machine_gets_nothing(proxy, connect, monkeypatch):
    monkeypatch.setattr(socket.socket, "getpeername", lambda _: ("192.0.2.7", 8000))
    connection = connect(proxy.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(ServedError, match=r"192\.0\.2\.7") as caught:
        list(connection.stream(ask(), budget_s=LONG_S))
    assert caught.value.fault is Kind.PEER
    assert proxy.requests == []


def test_a_slot_is_held_until_edge_llm_is_idle(proxy, connect):
    able = {"max_num_seqs": 1}
    busy = {"active_requests": 1, "queued_requests": 0, "capabilities": able}
    proxy.answers["/health"] = busy
    connection = connect(proxy.url)
    cancelled = connection.stream(ask(), budget_s=LONG_S)
    next(cancelled)
    cancelled.close()
    following = connection.stream(ask(), budget_s=LONG_S)
    deadline = time.monotonic() + LONG_S
    while proxy.count("GET /health") < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.count(POST) == 1
    proxy.answers["/health"] = {**busy, "active_requests": 0}
    assert list(following)[-1].finish
