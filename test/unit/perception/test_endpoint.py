# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which addresses of a served model are taken, and where the key to it may be."""

from __future__ import annotations

import os
import stat
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.served.endpoint import KEY_VARIABLE, Endpoint, EndpointError

SECRET = "sk-tEst0123456789"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("HTTP://LocalHost:8000/v1/", "http://localhost:8000/v1"),
        ("http://[::1]:8000/openai/v1", "http://[::1]:8000/openai/v1"),
        ("http://[::ffff:127.0.0.1]/v1", "http://[::ffff:127.0.0.1]/v1"),
    ],
)
def test_an_address_on_this_machine_is_taken(url, plain):
    endpoint = Endpoint.parse(url, "m")
    assert (endpoint.url, endpoint.is_remote) == (plain, False)


REMOTE = ["robot", "10.0.0.7", "127.1", "2130706433", "localhost.example.org", "[fd00::1]"]


@pytest.mark.parametrize("host", REMOTE)
def test_another_machine_needs_consent_and_tls(host):
    with pytest.raises(EndpointError, match="allow_remote:=true"):
        Endpoint.parse(f"https://{host}:8000/v1", "m")
    with pytest.raises(EndpointError, match="allow_plain_http:=true"):
        Endpoint.parse(f"http://{host}:8000/v1", "m", allow_remote=True)
    assert Endpoint.parse(f"https://{host}:8000/v1", "m", allow_remote=True).is_remote
    plain = Endpoint.parse(f"http://{host}/v1", "m", allow_remote=True, allow_plain_http=True)
    assert plain.is_remote


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@127.0.0.1:8000/v1",
        f"me:{SECRET}@127.0.0.1:8000/v1",
        f"http://127.0.0.1:8000/v1?key={SECRET}",
        f"http://127.0.0.1:8000/v1#{SECRET}",
        "http://127.0.0.1\\@example.org/v1",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1:8000/v1/chat/completions",
        "http://127.0.0.1:8000/v1/../admin",
        "http://0.0.0.0:8000/v1",
        "http://[::1%25lo]/v1",
        "ftp://127.0.0.1/v1",
        "127.0.0.1:8000/v1",
        "http://",
        "",
    ],
)
def test_an_address_that_could_be_misread_is_refused_and_no_secret_shown(url):
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(url, "m", allow_remote=True, allow_plain_http=True)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" in str(caught.value) or KEY_VARIABLE in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_whatever_is_taken_has_one_reading(rest):
    try:
        endpoint = Endpoint.parse(f"http://127.0.0.1:8000{rest}", "m")
    except EndpointError:
        return
    assert urlsplit(endpoint.url).hostname == "127.0.0.1"
    assert endpoint == Endpoint.parse(endpoint.url, "m")


def test_the_key_comes_from_the_environment_or_a_private_file(tmp_path, monkeypatch):
    def key(**where):
        return Endpoint.parse("http://127.0.0.1/v1", "m", **where).key

    assert key() == ""
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    monkeypatch.setenv("OTHER", "of-another")
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    assert key() == "of-the-environment"
    assert key(key_variable="OTHER") == "of-another"
    assert key(key_file=str(file)) == SECRET
    assert SECRET not in repr(Endpoint.parse("http://127.0.0.1/v1", "m", key_file=str(file)))


@pytest.mark.parametrize("bit", [stat.S_IRGRP, stat.S_IWGRP, stat.S_IROTH, stat.S_IWOTH])
def test_a_key_that_others_can_read_is_refused(tmp_path, bit):
    file = tmp_path / "key"
    file.write_text(SECRET)
    file.chmod(0o600 | bit)
    with pytest.raises(EndpointError, match="chmod 600"):
        Endpoint.parse("http://127.0.0.1/v1", "m", key_file=str(file))


@pytest.mark.parametrize("content", ["", f"{SECRET} two", f"{SECRET}\n{SECRET}", SECRET * 999, "é"])
def test_what_cannot_be_a_key_is_refused_and_not_shown(tmp_path, content):
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse("http://127.0.0.1/v1", "m", key_file=str(file))
    assert SECRET not in str(caught.value)


def test_a_key_file_that_is_none_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "missing", "."):
        with pytest.raises(EndpointError, match="key_file"):
            Endpoint.parse("http://127.0.0.1/v1", "m", key_file=str(tmp_path / name))
