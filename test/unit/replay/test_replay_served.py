# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A replay whose language model a server runs: asked once, the same bytes from the record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.places import DATA
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer
from vlm_perception.perception.served.completions import Delta, Request, TokenLogprobs
from vlm_perception.perception.served.errors import Fault
from vlm_perception.perception.served.record import Record, Recorded, RecordError, Writer
from vlm_perception.replay import run
from vlm_perception.replay.report.scene_log import read_log
from vlm_perception.replay.settings import default_parameters

DRIVE = DATA / "drive"


def replay(out, parameters, served):
    options = run.ReplayOptions(
        DRIVE, out=out, parameters=parameters, served=served, overlay=False, fresh=True
    )
    return run.run_replay(options, Console(quiet=True))


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Those of the nodes, with a server's address below them."""
    file = tmp_path_factory.mktemp("parameters") / "served.yaml"

    def write(url, **others):
        served = {"language": "served", "endpoint": url, "model": MODEL, **others}
        section = {"/**/language_reasoner": {"ros__parameters": served}}
        file.write_text(f"{default_parameters().read_text()}\n{json.dumps(section)[1:-1]}\n")
        return file

    return write


@pytest.fixture(scope="module")
def asked(tmp_path_factory, parameters):
    """The drive, replayed with a server: the parameters and the results."""
    out = tmp_path_factory.mktemp("asked")
    with BundleServer(ModelBundle.load("roadworld-nano")) as server:
        file = parameters(server.url)
        assert replay(out, file, "live") == 0
        assert server.bodies
    return file, out


def test_a_record_gives_the_same_bytes_each_time(asked, tmp_path):
    file, live = asked
    keyframes = [each for each in read_log(live / run.LOG) if "caption" in each]
    assert len(keyframes) > 3 and all(each["caption"] for each in keyframes if "trigger" in each)
    for name in ("one", "other"):
        assert replay(tmp_path / name, file, str(live / run.SERVED)) == 0
    for name in (run.LOG, "scene.mcap"):
        one = (tmp_path / "one" / name).read_bytes()
        assert one == (tmp_path / "other" / name).read_bytes()
    assert (tmp_path / "one" / run.LOG).read_bytes() == (live / run.LOG).read_bytes()


def test_what_is_not_in_the_record_is_an_error(asked, parameters, tmp_path):
    _, live = asked
    record = str(live / run.SERVED)
    other = parameters("http://127.0.0.1:9/v1", caption_prompt="something else")
    with pytest.raises(RecordError, match=r"not in the record .* --served live"):
        replay(tmp_path, other, record)
    for file, how, sentence in (
        (other, None, "--served live"),
        (None, record, "language: served"),
        (parameters("http://127.0.0.1:9/v1", model="another/model"), record, "another/model"),
        (other, "live", "127.0.0.1:9"),
        (other, str(file_of(tmp_path, "{}\n{}\n")), "line 1"),
        (other, str(file_of(tmp_path, "")), "no record"),
        (other, str(tmp_path / "missing"), "cannot be read"),
    ):
        with pytest.raises(VlmPerceptionError, match=sentence):
            replay(tmp_path / "out", file, how)
    told = CliRunner().invoke(app, ["replay", str(DRIVE), "--served", "live"])
    assert told.exit_code == 2 and "language: served" in " ".join(told.output.split())


def test_a_record_says_whose_it_is_and_survives_a_torn_line(tmp_path):
    with pytest.raises(RecordError):
        Record.model_of(file_of(tmp_path, "my notes\n"))
    file = tmp_path / "record.jsonl"
    assert Record.model_of(file) is None
    for text in ("one", "other", "one"):
        writer = Writer(file, MODEL)
        writer.add(Request([], 1, seed=len(text)), Recorded(((0.5, Delta(text)),)))
        writer.close()
        with file.open("a") as stream:
            stream.write('{"request": "half a li')
    assert Record.model_of(file) == MODEL
    record = Record.read(file)
    said = [record.take(Request([], 1, seed=3)).pieces[0][1].text for _ in range(3)]
    assert said == ["one", "one", "one"]
    assert record.take(Request([], 1, seed=5)).pieces[0][1].text == "other"


def test_a_folder_that_vanishes_ends_a_record_and_nothing_else(tmp_path):
    said = []
    gone = Writer(tmp_path / "missing" / "record.jsonl", MODEL, said.append)
    for _ in range(2):
        gone.add(Request([], 1), Recorded(()))
    assert len(said) == 1


def file_of(folder, text):
    file = folder / f"{len(text)}.jsonl"
    file.write_text(text)
    return file


TOKENS = st.builds(
    TokenLogprobs, st.text(), st.floats(-50.0, 0.0), st.dictionaries(st.text(), st.floats(-50, 0))
)
DELTAS = st.builds(Delta, st.text(), st.lists(TOKENS).map(tuple), st.sampled_from(["", "stop"]))
PIECES = st.lists(st.tuples(st.integers(0, 10**6).map(lambda us: us / 1e6), DELTAS)).map(tuple)
ERRORS = st.none() | st.tuples(st.just(0.5), st.sampled_from(list(Fault)), st.text())


@given(st.dictionaries(st.text(), st.builds(Recorded, PIECES, ERRORS), max_size=4))
def test_a_record_is_read_as_it_was_written(tmp_path_factory, answers):
    file = tmp_path_factory.mktemp("record") / "record.jsonl"
    writer = Writer(file, MODEL)
    writer.server({"guided": True})
    requests = {text: Request([{"role": "user", "content": text}], 5) for text in answers}
    for text, answer in answers.items():
        writer.add(requests[text], answer)
    writer.close()
    if not answers:
        assert not file.exists()
        return
    with file.open("a") as stream:
        stream.write('{"request": "half a li')
    record = Record.read(file)
    assert record.server == {"guided": True}
    assert {text: record.take(request) for text, request in requests.items()} == answers
    assert {text: record.take(request) for text, request in requests.items()} == answers
