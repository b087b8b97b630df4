# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval asks of a bundle, as far as lmms-eval itself need not be there."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.evaluation.lmms.decoding import Decoding, DecodingError, read_decoding
from vlm_perception.evaluation.lmms.figures import Record, figures, parts_of_mean
from vlm_perception.evaluation.lmms.judges import judge_of, no_connections
from vlm_perception.evaluation.lmms.provenance import ProvenanceError, data_set, task_digest
from vlm_perception.evaluation.lmms.respondent import Respondent, RowError, read_row
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def image(width=160, height=90, seed=0):
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height))


def asked(*parts):
    kinds = {str: ("text", "text"), Image.Image: ("image", "url")}
    content = [{"type": kind, key: part} for part in parts for kind, key in [kinds[type(part)]]]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Decoding()),
        (
            {"until": ["ASSISTANT:"], "max_new_tokens": 16, "temperature": 0, "num_beams": 1},
            Decoding(16, ("ASSISTANT:",)),
        ),
        ({"until": "\n\n", "temperature": 0.7, "do_sample": False}, Decoding(until=("\n\n",))),
        ({"until": None, "top_p": None, "repetition_penalty": None}, Decoding()),
        (
            {"temperature": 0.2, "top_p": 0.9, "image_aspect_ratio": "original"},
            Decoding(sampling=Sampling(0.2, 0.9), without=("image_aspect_ratio",)),
        ),
        ({"temperature": 1, "top_k": 1}, Decoding()),
        ({"do_sample": True}, Decoding(sampling=Sampling(1.0))),
        ({"do_sample": True, "temperature": 0}, Decoding()),
    ],
)
def test_how_answers_are_written_is_understood(settings, expected):
    assert read_decoding(settings) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"repetition_penalty": 1.2},
        {"temperature": 1.0, "top_k": 20},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"until": [""]},
    ],
)
def test_what_a_bundle_cannot_write_is_refused_by_name(settings):
    with pytest.raises(DecodingError, match=list(settings)[-1]):
        read_decoding(settings)


def test_a_row_is_an_image_and_the_text_around_it():
    row = read_row(asked("Look at", image(), "What is it?"))
    assert (row.text, row.moved) == ("Look at\nWhat is it?", True)
    assert row.image.shape == (90, 160, 3)
    assert not read_row(asked(image(), "What?")).moved


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (asked(image(), image(), "Compare."), "2 images, and a bundle is asked about one"),
        (asked("What is two and two?"), "no image"),
        (asked(image()), "no text"),
        ([{"role": "system", "content": "Be brief."}, *asked(image(), "What?")], "system, user"),
        ([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "has video"),
        ([], "nobody"),
    ],
)
def test_what_is_no_such_row_is_an_error(messages, why):
    with pytest.raises(RowError, match=why):
        read_row(messages)


def test_a_bundle_answers_as_its_networks_do():
    bundle = ModelBundle.load("roadworld-nano")
    respondent, text = Respondent(bundle, threads=1), "describe the scene"
    encoder, language = VisionEncoder(bundle, temporal=False), LanguageModel(bundle)
    for seed in (1, 2):
        picture = image(seed=seed)
        seen = language.alone(language.read(encoder.encode(Frame(np.array(picture), 0), 0)))
        expected = language.generate(seen, text, max_tokens=60)
        assert expected.finished
        answer = respondent.answer(asked(picture, text), Decoding())
        assert (answer.text, answer.tokens) == (expected.text, len(expected.token_ids))
        assert not answer.cut
        word = expected.text.split()[2]
        before = respondent.answer(asked(picture, text), Decoding(until=("never", word)))
        assert before.text == expected.text[: expected.text.index(word)]
        short = respondent.answer(asked(picture, text), Decoding(max_new_tokens=2))
        assert (short.tokens, short.cut) == (2, False)
        drawn = Decoding(sampling=Sampling(temperature=2.0))
        first, again, other = (
            respondent.answer(asked(picture, text), drawn, draw=draw).text for draw in (0, 0, 1)
        )
        assert first == again != other


def test_a_tasks_digest_follows_all_of_its_files(tmp_path):
    (tmp_path / "base").write_text("output_type: generate_until\n")
    (tmp_path / "code.py").write_text("def score(doc, results): return {}\n")
    task = tmp_path / "task.yaml"
    task.write_text("include: base\ntask: a\nprocess_results: !function code.score\n")
    seen = {task_digest(task)}
    for name in ("base", "code.py", "task.yaml"):
        with (tmp_path / name).open("a") as stream:
            stream.write("# changed\n")
        seen.add(task_digest(task))
    assert len(seen) == 4
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("base", "code.py", "task.yaml"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    assert task_digest(copy / "task.yaml") in seen
    (tmp_path / "base").write_text("include: task.yaml\n")
    with pytest.raises(ProvenanceError, match="includes itself"):
        task_digest(task)


def test_data_are_named_by_commit_or_content(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "test.parquet").write_bytes(b"rows")
    local = data_set(str(folder), None, "test", {}, ())
    assert local == data_set(str(folder), None, "test", {}, ())
    assert (local.revision, len(local.version)) == (None, 64)
    (folder / "test.parquet").write_bytes(b"other rows")
    changed = data_set(str(folder), None, "test", {}, ())
    assert changed.version != local.version
    files = {"data_files": {"test": str(folder / "*.parquet")}}
    assert data_set("parquet", None, "test", files, ()).digest is not None
    made = f"/home/a/.cache/a___b/en/0.0.0/{COMMIT}/b-test.arrow"
    assert data_set("a/b", "en", "test", {}, [made, made]).version == COMMIT
    assert data_set("a/b", "en", "test", {"revision": COMMIT}, []).revision == COMMIT


@pytest.mark.parametrize(
    ("path", "split", "settings", "read", "why"),
    [
        ("a/b", None, {}, [f"/cache/{COMMIT}/x"], "no split"),
        ("a/b", "test", {}, [], "no commit"),
        ("a/b", "test", {"revision": "main"}, [f"/cache/{COMMIT}/x", "/cache/y"], "no commit"),
        ("a/b", "test", {}, [f"/cache/{COMMIT}/x", f"/cache/{COMMIT[::-1]}/x"], "no commit"),
        ("json", "test", {"data_files": "https://b.org/rows.json"}, [], "not on this machine"),
        ("json", "test", {}, [], "no file"),
    ],
)
def test_data_that_nobody_could_find_again_are_refused(path, split, settings, read, why):
    with pytest.raises(ProvenanceError, match=why):
        data_set(path, None, split, settings, read)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=40))
def test_figures_that_are_means_are_told_from_others(pairs):
    def accuracy(rows):
        return 100 * sum(said == true for said, true in rows) / len(rows)

    assert np.isclose(np.mean(parts_of_mean(accuracy, pairs)), accuracy(pairs))


def test_other_figures_have_no_parts():
    def precision(rows):
        said = [true for yes, true in rows if yes]
        return sum(said) / len(said) if said else 0.0

    pairs = [(True, True), (True, False), (False, True), (False, False)] * 3
    assert parts_of_mean(precision, pairs) == []
    assert parts_of_mean(lambda rows: None, pairs) == []
    assert parts_of_mean(lambda rows: 1 / (len(rows) - 1), pairs) == []
    assert parts_of_mean(precision, []) == []


def test_figures_follow_from_rows():
    def record(row, error="", **scores):
        return Record("task", row, "", 0, error, False, False, scores)

    rows = [record(0, acc=1.0), record(1, "2 images", acc=0.0), record(2, acc=1.0, video=0.5)]
    found = figures(rows)
    assert (found["rows"], found["errors"], found["video"]) == (3, 1, 0.5)
    assert found["acc"] == pytest.approx(2 / 3)
    assert found["acc_stderr"] == pytest.approx(1 / 3)
    assert found["acc_answered"] == 1.0
    assert not found.keys() & {"video_stderr", "video_answered"}


@pytest.fixture
def server():
    httpd = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()


def test_a_task_that_asks_a_judge_is_found_whatever_it_catches(server):
    def asks(answer):
        try:
            urllib.request.urlopen(server, timeout=5)
        except Exception:
            return 0.0

    def asks_in_a_thread_where_no_rule_decides(answer):
        if answer:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(asks, answer).result()
        return 0.0

    assert judge_of(asks) == judge_of(asks_in_a_thread_where_no_rule_decides) == "127.0.0.1"
    assert judge_of(lambda answer: socket.getaddrinfo("judge.invalid", 443)) == "judge.invalid"


def test_a_task_that_asks_nobody_is_not_disturbed(server):
    assert judge_of(lambda answer: 1 / 0) == ""
    one, other = socket.socketpair()
    with no_connections():
        one.send(b"local")
    assert other.recv(5) == b"local"
    with pytest.raises(urllib.error.HTTPError):  # connections are free again
        urllib.request.urlopen(server, timeout=5)
    one.close()
    other.close()
    assert Decoding().sampling == GREEDY
