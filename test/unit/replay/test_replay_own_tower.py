# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle whose language model has a vision tower of its own is replayed like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from rosbags.highlevel import AnyReader
from support.recordings import jpeg, write

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.views import Views
from vlm_perception.replay import run
from vlm_perception.replay.recordings.source import Span, open_source


def replay(recording: Path, out: Path, bundle: ModelBundle) -> int:
    options = run.ReplayOptions(recording, out=out, bundle=str(bundle.path), overlay=False)
    return run.run_replay(options, Console(quiet=True))


def test_an_interrupted_run_goes_on_with_the_same_bytes(
    own_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = write(tmp_path / "bag", [jpeg(index) for index in range(12)])
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert replay(recording, once, own_bundle) == 0

    class Impatient(run.Interrupt):
        left = 9

        def __bool__(self) -> bool:
            self.left -= 1
            return self.left <= 0

    with monkeypatch.context() as patch:
        patch.setattr(run, "Interrupt", Impatient)
        assert replay(recording, twice, own_bundle) == run.INTERRUPTED
    assert replay(recording, twice, own_bundle) == 0
    assert (twice / run.LOG).read_bytes() == (once / run.LOG).read_bytes()
    records = [json.loads(line) for line in (once / run.LOG).read_text().splitlines()]
    stages = [each["stages"] for each in records if "stages" in each]
    assert stages
    # A view takes 60 ms in the default model.
    assert all(each["tower"] == 0.06 and each["prefill"] > 0 for each in stages)
    with AnyReader([once]) as whole, AnyReader([twice]) as resumed:
        assert [data for *_, data in whole.messages()] == [data for *_, data in resumed.messages()]
        details = [
            whole.deserialize(data, connection.msgtype)
            for connection, _, data in whole.messages()
            if connection.topic == "/embedding/detail"
        ]
    first = next(iter(open_source(recording).frames(Span())))
    assert first.pixels is not None
    language = own_bundle.manifest.language
    assert language is not None
    assert language.tower is not None
    assert details[0].names == ["views"]
    assert details[0].tensors[0].data.tobytes() == Views(language.tower).of(first.pixels).tobytes()
