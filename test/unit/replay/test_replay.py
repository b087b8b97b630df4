# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A recording is replayed: the same bytes each time, and as was written down before."""

import json
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rosbags.highlevel import AnyReader
from support.places import DATA
from support.recordings import START_NS, STEP_NS, jpeg, write, write_with_stranger
from support.site_vocabularies import write_site_vocabulary
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.site_vocabulary import read_site_vocabulary
from vlm_perception.cli import app
from vlm_perception.common import disk_space
from vlm_perception.outputs.folder import UNFINISHED
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.replay import resume, run
from vlm_perception.replay.pipeline import EngineOptions, Pipeline
from vlm_perception.replay.recordings import writer
from vlm_perception.replay.recordings.source import BagSource, Span, open_source
from vlm_perception.replay.report.report import chosen, write_report
from vlm_perception.replay.report.scene_log import read_log
from vlm_perception.replay.report.summary import Keyframe, summarize
from vlm_perception.replay.report.timeline_svg import timeline
from vlm_perception.replay.settings import default_parameters, load_settings
from vlm_perception.replay.virtual_time import GraphCost, LatencyModel
from vlm_perception.types import Frame

DRIVE, GOLDEN = DATA / "drive", DATA / "drive.golden.jsonl"
QUIET = Console(quiet=True)
FAULTS = [{"fault": "truncated", "frame": 1, "stamp": 5, "text": "cut"}]


def replay(recording, out, **options):
    """Replay, and return the exit code."""
    options.setdefault("overlay", False)
    return run.run_replay(run.ReplayOptions(recording, out=out, **options), QUIET)


def records(out, key):
    return [record for record in read_log(out / run.LOG) if key in record]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """The drive, replayed once."""
    out = tmp_path_factory.mktemp("replayed")
    assert replay(DRIVE, out, overlay=True) == 0
    return out


@pytest.mark.slow
def test_the_drive_says_what_its_golden_log_says(replayed):
    told = CliRunner().invoke(app, ["compare", str(GOLDEN), str(replayed)])
    assert told.exit_code == 0, told.output


@pytest.mark.slow
def test_threads_change_no_byte(replayed, tmp_path):
    assert replay(DRIVE, tmp_path, engine=EngineOptions(threads=2)) == 0
    for name in (run.LOG, "scene.mcap", "metadata.yaml"):
        assert (tmp_path / name).read_bytes() == (replayed / name).read_bytes(), name


@pytest.mark.slow
def test_a_full_disk_interrupts_a_run_that_goes_on_later(replayed, tmp_path, monkeypatch):
    left = iter(range(50, -1, -1))
    with monkeypatch.context() as patch:
        patch.setattr(disk_space, "free_bytes", lambda _: next(left) * disk_space.KEPT_FREE_BYTES)
        with pytest.raises(disk_space.DiskFullError, match="the same command resumes"):
            replay(DRIVE, tmp_path)
    with AnyReader([tmp_path / UNFINISHED / "scene.mcap"]) as reader:
        assert sum(each.msgcount for each in reader.connections if each.topic == "/scene") == 50
    assert replay(DRIVE, tmp_path) == 0
    assert (tmp_path / run.LOG).read_bytes() == (replayed / run.LOG).read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_there_had_been_none(replayed, tmp_path, monkeypatch):
    class Impatient(run.Interrupt):
        left = 33

        def __bool__(self):
            self.left -= 1
            return self.left <= 0

    with monkeypatch.context() as patch:
        patch.setattr(run, "Interrupt", Impatient)
        assert replay(DRIVE, tmp_path) == run.INTERRUPTED
    unfinished = tmp_path / UNFINISHED
    with AnyReader([unfinished]) as bag:
        before = bag.message_count
    assert 0 < len(records(unfinished, "tags")) < 40
    assert replay(DRIVE, tmp_path) == 0
    assert (tmp_path / run.LOG).read_bytes() == (replayed / run.LOG).read_bytes()
    with AnyReader([tmp_path]) as whole, AnyReader([replayed]) as once:
        assert whole.message_count == once.message_count > before
        assert [data for *_, data in whole.messages()] == [data for *_, data in once.messages()]


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_begun_anew(replayed, tmp_path, monkeypatch):
    def full(_):
        raise disk_space.DiskFullError

    with monkeypatch.context() as patch:
        patch.setattr(writer, "check_room", full)
        with pytest.raises(disk_space.DiskFullError):
            replay(DRIVE, tmp_path)
    file = tmp_path / UNFINISHED / resume.FILE
    kept = json.loads(file.read_text())
    kept["state"]["object"][1]["_degradation"] = {"record": ["Popen", {"args": "true"}]}
    file.write_text(json.dumps({**kept, "frames": 40}))
    assert replay(DRIVE, tmp_path) == 0
    assert (tmp_path / run.LOG).read_bytes() == (replayed / run.LOG).read_bytes()


@pytest.mark.slow
def test_the_bag_holds_images_and_results_of_all_frames(replayed):
    with AnyReader([replayed]) as bag:
        counts = {connection.topic: connection.msgcount for connection in bag.connections}
        assert all(connection.msgdef.data for connection in bag.connections)
    facts = json.loads((replayed / run.RUN).read_text())
    assert counts["/camera/image_raw/compressed"] == counts["/scene"] == facts["frames"] == 80
    assert counts["/embedding"] == 80
    assert counts["/reasoning"] == facts["reasonings"]
    assert counts["/embedding_info"] == 1


def test_the_bag_holds_what_the_language_model_has_read(replayed):
    read = {"/embedding": [], "/embedding/detail": [], "/reasoning": []}
    with AnyReader([replayed]) as reader:
        for connection, _, data in reader.messages():
            if connection.topic in read:
                read[connection.topic].append(reader.deserialize(data, connection.msgtype))
    embeddings, details, reasonings = read.values()
    assert not any(len(each.tokens.data) or len(each.token_index) for each in embeddings)
    stamps = {(each.run_id, each.sequence): each.header.stamp for each in embeddings}
    seen = [stamps[each.run_id, each.sequence] for each in details]
    assert seen == [each.header.stamp for each in details]
    assert seen == [each.header.stamp for each in reasonings if each.is_keyframe]
    source = open_source(DRIVE)
    first = next(iter(source.frames(Span())))
    encoder = VisionEncoder(ModelBundle.load("roadworld-nano"))
    expected = encoder.encode(Frame(first.pixels, first.stamp_ns), 0)
    assert details[0].names == ["tokens", "token_index"]
    for tensor, values in zip(
        details[0].tensors, (expected.tokens, expected.token_index), strict=True
    ):
        assert tensor.shape.tolist() == list(values.shape)
        assert tensor.data.tobytes() == values.tobytes()


def test_the_report_needs_nothing_else_and_shows_what_was_said(replayed):
    page = (replayed / run.REPORT).read_text()
    assert not re.search(r"(src|href)=\"(?!data:image/jpeg|#|scene\.jsonl|overlay\.mp4)", page)
    keyframes = [record for record in records(replayed, "reasoning") if "caption" in record]
    assert page.count("data:image/jpeg;base64,") == len(keyframes)
    assert all(record["caption"] in page for record in keyframes)
    assert json.loads((replayed / run.RUN).read_text())["log_sha256"] in page
    assert (replayed / run.VIDEO).stat().st_size > 10_000


def test_a_report_takes_names_as_text(tmp_path):
    topic = "/evil<script>alert(1)</script>"
    bag = write(tmp_path / "bag", [jpeg(0), jpeg(1), jpeg(2)[:300]], topics=(topic,))
    assert replay(bag, tmp_path / "out") == 0
    page = (tmp_path / "out" / run.REPORT).read_text()
    assert "<script>" not in page
    assert "truncated" in page


def test_faults_of_a_recording_are_written_down_and_survived(tmp_path):
    files = [jpeg(index) for index in range(20)]
    files[4] = files[4][:200]
    files[10] = jpeg(10, 96, 54)
    stamps = [START_NS + index * STEP_NS for index in range(20)]
    stamps[7] -= STEP_NS + STEP_NS // 2  # late: older than the one before by less than 0.1 s
    for index in range(15, 20):
        stamps[index] -= 14 * STEP_NS  # the drive begins again
    assert replay(write(tmp_path / "bag", files, stamps=stamps), tmp_path / "out") == 0
    out = tmp_path / "out"
    assert [(each["frame"], each["fault"]) for each in records(out, "fault")] == [
        (4, "truncated"),
        (7, "out_of_order"),
    ]
    assert [each["frame"] for each in records(out, "event")] == [15]
    assert len(records(out, "tags")) == 18
    assert "time_jump" in [each.trigger for each in summarize(out / run.LOG).keyframes]
    page = (out / run.REPORT).read_text()
    for said in ("96&times;54", "1 time jump", "1 &times; truncated", "1 &times; out of order"):
        assert said in page, said


def test_a_truncated_bag_is_replayed_up_to_the_break(tmp_path):
    bag = write(tmp_path / "bag", [jpeg(index) for index in range(20)])
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert replay(bag, tmp_path / "out") == run.LOSSES
    facts = json.loads((tmp_path / "out" / run.RUN).read_text())
    assert 5 < facts["frames"] < 15
    page = (tmp_path / "out" / run.REPORT).read_text()
    assert "part of the recording is lost" in page
    assert "promises 20 messages" in page


def test_topics_of_unknown_types_do_not_matter(tmp_path):
    bag = write_with_stranger(tmp_path / "bag", [jpeg(index) for index in range(5)])
    options = ["--out", str(tmp_path / "out"), "--originals", "all", "--no-overlay"]
    told = CliRunner().invoke(app, ["replay", str(bag), *options])
    assert told.exit_code == 0
    assert "the type maker_msgs/msg/Odd is unknown" in told.output
    facts = json.loads((tmp_path / "out" / run.RUN).read_text())
    assert any("the type maker_msgs/msg/Odd is unknown" in note for note in facts["notes"])
    with AnyReader([tmp_path / "out"]) as copy:
        counts = {connection.topic: connection.msgcount for connection in copy.connections}
    assert counts["/mood"] == counts["/scene"] == 5
    assert "/strange" not in counts


@pytest.mark.slow
def test_a_replay_looks_for_the_labels_of_a_vocabulary_file(tmp_path):
    bundle = ModelBundle.load("roadworld-nano")
    file = write_site_vocabulary(tmp_path / "site.vocabulary", bundle)
    out, told = tmp_path / "out", ["replay", str(DRIVE), "--vocabulary", str(file), "--duration"]
    assert replay(DRIVE, out, vocabulary=file, span=Span(duration_s=0.2)) == 0
    head = records(out, "log")[0]
    assert head["labels"] == ["my loading bay", "car"]
    assert head["vocabulary"] == read_site_vocabulary(file, bundle).digest
    file.write_text(file.read_text().replace("loading", "leading"))
    refused = CliRunner().invoke(app, [*told, "0.2", "--out", str(tmp_path / "new")])
    assert refused.exit_code == 2 and "edited or damaged" in refused.output


def test_bad_input_ends_with_exit_code_2_and_leaves_results_alone(replayed, tmp_path):
    before = (replayed / run.LOG).read_bytes()
    (tmp_path / "noise.mcap").write_bytes(np.random.default_rng(0).bytes(2000))
    told = CliRunner().invoke(app, ["replay", str(tmp_path / "noise.mcap"), "--out", str(replayed)])
    assert told.exit_code == 2
    assert "not an mcap file" in told.output
    assert (replayed / run.LOG).read_bytes() == before


def pipeline(model, speed=1.0, **changes):
    settings = load_settings(default_parameters())
    bundle = ModelBundle.load(settings.bundle)
    return Pipeline(bundle, settings, model, EngineOptions(), speed, **changes)


@pytest.mark.slow
def test_a_slower_robot_gives_up_work_whatever_the_machine_takes():
    drive = list(open_source(DRIVE).frames(Span()))
    slow = LatencyModel(graphs={"decoder": GraphCost(run=60.0)})
    outcomes = {}
    for name, model, speed in (("fast", LatencyModel(), 1.0), ("slow", slow, 1.0)):
        feed = pipeline(model, speed).feed
        outcomes[name] = [
            feed(Frame(each.pixels, each.stamp_ns, each.frame_id), each.time_ns) for each in drive
        ]
    ticks = {name: [tick for each in of for tick in each.ticks] for name, of in outcomes.items()}
    assert {tick.reasoning.rung for tick in ticks["fast"]} == {0}
    assert max(tick.reasoning.rung for tick in ticks["slow"]) > 0
    assert len(ticks["slow"]) < len(ticks["fast"])
    # The fast path does not wait for the slow one: each frame has its scene, with the same tags.
    for fast, slow_one in zip(*outcomes.values(), strict=True):
        assert fast.scene.tags == slow_one.scene.tags


@pytest.mark.slow
def test_a_summary_of_a_long_log_stays_small(replayed, tmp_path):
    head, *rest = (replayed / run.LOG).read_text().splitlines()
    scene = next(json.loads(line) for line in rest if "tags" in json.loads(line))
    long = tmp_path / "long.jsonl"
    with long.open("w") as log:
        print(head, file=log)
        for index in range(20_000):
            scene |= {"frame": index, "time": START_NS + index * STEP_NS}
            print(json.dumps(scene), file=log)
    summary = summarize(long)
    assert summary.seconds == pytest.approx(1999.9)
    courses = [summary.status, *summary.answers.values(), *summary.tags.values()]
    assert all(len(course.slots) <= 1024 for course in courses)
    assert len(timeline(summary)) < 100_000


@given(st.lists(st.integers(0, 2**62) | st.integers(0, 10**10), min_size=1, max_size=12))
@example([0, 10**17, 0, 10**17])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_report_is_as_long_as_its_log_whatever_the_clock_did(replayed, tmp_path, times):
    head, *rest = (replayed / run.LOG).read_text().splitlines()
    scene = next(json.loads(line) for line in rest if "tags" in json.loads(line))
    event = {"event": "time_jump", "frame": 0, "time": times[-1]}
    lines = [scene | {"frame": index, "time": time} for index, time in enumerate(times)]
    lines += [fault | {"time": times[0]} for fault in FAULTS] + [event]
    (tmp_path / run.LOG).write_text("\n".join([head, *map(json.dumps, lines)]))
    page = write_report(tmp_path, json.loads((replayed / run.RUN).read_text())).read_text()
    assert len(page) < 40_000 + 6_000 * len(times)


def test_a_report_tells_of_a_clock_that_was_set(tmp_path):
    # Without a clock of its own a computer begins in 1970, until it has asked a server.
    head = json.loads(GOLDEN.read_text().splitlines()[0])
    scene = next(record for record in read_log(GOLDEN) if "tags" in record)
    times = [index * STEP_NS + (index > 4) * START_NS for index in range(10)]
    lines = [head, *(scene | {"frame": index, "time": time} for index, time in enumerate(times))]
    (tmp_path / run.LOG).write_text("\n".join(map(json.dumps, lines)))
    summary = summarize(tmp_path / run.LOG)
    assert summary.seconds == pytest.approx(0.8)
    assert summary.axis.leaps == [(pytest.approx(0.4), pytest.approx((START_NS + STEP_NS) * 1e-9))]
    assert not summary.gaps()
    assert "continues 472222:13:20.1 later: its clock was set" in timeline(summary)


def test_why_no_image_could_be_used_is_said_on_the_console(tmp_path):
    bag = write(tmp_path / "bag", [jpeg(0)[:200], b"", b"", jpeg(1)[:150]])
    told = CliRunner().invoke(app, ["replay", str(bag), "--out", str(tmp_path / "out")])
    assert told.exit_code == run.LOSSES
    assert "none of the images could be used" in told.output
    assert "2 x truncated; of the first one: its data ends in mid-image" in told.output
    assert "2 x bad data length; of the first one: its data is empty" in told.output


def test_key_frames_that_changed_something_are_shown_first():
    make = partial(Keyframe, drift=0.0, caption="", answers={})
    keyframes = [
        make(
            index,
            float(index),
            "drift" if index % 50 == 0 else "age",
            changed=("road",) * (index == 77),
        )
        for index in range(200)
    ]
    shown = [each.number for each in chosen(keyframes, 10)]
    assert len(shown) == 10
    assert {0, 50, 77, 100, 150} <= set(shown)
    assert shown == sorted(shown)


def test_a_video_is_replayed_like_a_bag(replayed, tmp_path):
    source = open_source(replayed / run.VIDEO)
    assert not isinstance(source, BagSource)
    assert replay(replayed / run.VIDEO, tmp_path, span=Span(1.0, 2.0)) == 0
    assert len(records(tmp_path, "tags")) == 20


@pytest.mark.slow
def test_a_harvest_holds_the_frames_worth_a_second_look(replayed, tmp_path):
    told = CliRunner().invoke(app, ["harvest", str(DRIVE), "--out", str(tmp_path / "set")])
    assert told.exit_code == 0, told.output
    samples = [
        json.loads(each) for each in (tmp_path / "set/metadata.jsonl").read_text().split("\n")[:-1]
    ]
    keyframes = {
        each["stamp"]: each for each in records(replayed, "reasoning") if "caption" in each
    }
    assert 3 < len(samples) <= 80
    for sample in samples:
        assert (tmp_path / "set" / sample["file_name"]).read_bytes().startswith(b"\xff\xd8")
        assert sample["reasons"]
        if any(reason.startswith("keyframe") for reason in sample["reasons"]):
            assert keyframes[sample["stamp"]]["caption"] == sample["text"]
    again = CliRunner().invoke(app, ["harvest", str(DRIVE), "--out", str(tmp_path / "set")])
    assert again.exit_code == 2
