# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Results replace results, and nothing else is ever lost, wherever a run is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import jpeg, write
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.outputs import swap
from vlm_perception.outputs.file import write_figures
from vlm_perception.outputs.folder import UNFINISHED, ResultsFolder
from vlm_perception.outputs.mark import MARK, OutputError
from vlm_perception.outputs.own import own_folder

NAMES = ("log", "bag", "pictures/*")
OLD = {"log": "old", "bag": "old", "pictures/1": "old"}
NEW = {"log": "new", "pictures/1": "new", "pictures/2": "new"}
FOREIGN = {"notes": "mine", "pictures.txt": "mine"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def run(folder: Path, files: dict[str, str], verb: str = "verb") -> None:
    with ResultsFolder(folder, verb, NAMES) as results:
        if results.left_over:
            results.clear()
        fill(results.work, files)
        results.publish()


def killed(work: Callable[[], None], at: int) -> bool:
    """Work in a process that is killed at its n-th operation on files; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = iter(range(at))
        operations = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir")

        def hook(event: str, _: object) -> None:
            if event in operations and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_wherever_a_run_is_killed_old_or_new_results_are_whole(tmp_path: Path) -> None:
    seen = []
    at = 0
    while True:
        folder = tmp_path / str(at)
        run(folder, OLD)
        fill(folder, FOREIGN)
        if not killed(partial(run, folder, NEW), at):
            break
        with ResultsFolder(folder, "verb", NAMES) as results:
            found = content(folder)
            found = {name: found[name] for name in found if not name.startswith(UNFINISHED)}
            assert found in ({**OLD, **FOREIGN}, {**NEW, **FOREIGN})
            seen.append((found["log"], results.completed, results.left_over))
        run(folder, NEW)
        assert content(folder) == {**NEW, **FOREIGN}
        at += 1
    assert {("old", False, True), ("new", True, False)} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_swapped_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(swap, "exchanged", lambda *_: False)

    def make(place: Path, files: dict[str, str]) -> None:
        with swap.made_beside(place, "verb") as scratch:
            fill(scratch / "made", files)
            swap.swap(scratch / "made", place)

    for at in range(1000):
        folder = tmp_path / str(at)
        make(folder / "out", OLD)
        whole = not killed(partial(make, folder / "out", NEW), at)
        assert not (exchanges or whole) or content(folder / "out") in (OLD, NEW)
        with swap.made_beside(folder / "out", "verb"):
            assert content(folder / "out") in (OLD, NEW)
        assert [path.name for path in folder.iterdir()] == ["out"]
        if whole:
            break
    assert at > 5


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with ResultsFolder(tmp_path, "verb", NAMES), pytest.raises(OutputError, match="another run"):
        run(tmp_path, NEW)


@pytest.mark.parametrize(
    "foreign", ["log", "pictures/1", "pictures", UNFINISHED, f"{UNFINISHED}/notes"]
)
def test_a_file_in_the_way_is_refused(tmp_path: Path, foreign: str) -> None:
    fill(tmp_path, {foreign: "mine"})
    with pytest.raises(OutputError, match=r"choose another --out"):
        run(tmp_path, NEW)
    assert content(tmp_path) == {foreign: "mine"}


def test_results_that_were_changed_or_are_another_verbs_stay(tmp_path: Path) -> None:
    run(tmp_path, OLD)
    with pytest.raises(OutputError, match="not written by `other`"):
        run(tmp_path, NEW, "other")
    fill(tmp_path, {"bag": "edited"})
    with pytest.raises(OutputError, match="changed since"):
        run(tmp_path, NEW)
    assert content(tmp_path) == {**OLD, "bag": "edited"}


def test_links_lead_nowhere(tmp_path: Path) -> None:
    fill(tmp_path / "mine", {"1": "mine"})
    run(tmp_path / "out", OLD)
    shutil.rmtree(tmp_path / "out" / "pictures")
    (tmp_path / "out" / "pictures").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError):
        run(tmp_path / "out", NEW)
    assert content(tmp_path / "mine") == {"1": "mine"}
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OutputError, match="circle"):
        run(tmp_path / "circle", NEW)


def test_a_mark_claims_nothing_outside_its_folder(tmp_path: Path) -> None:
    fill(tmp_path, {"victim": "mine"})
    run(tmp_path / "out", {"log": "old"})
    status = (tmp_path / "victim").stat()
    mark = json.loads((tmp_path / "out" / MARK).read_text())
    mark["files"]["../victim"] = ["verb", status.st_size, status.st_mtime_ns]
    (tmp_path / "out" / MARK).write_text(json.dumps(mark))
    with contextlib.suppress(OutputError):
        run(tmp_path / "out", {"bag": "new"})
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_file_of_figures_replaces_its_own_kind_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_figures(Path("figures.json"), {"figure": 1})
    write_figures(Path("figures.json"), {"figure": 2})
    assert json.loads(Path("figures.json").read_text()) == {"figure": 2}
    fill(tmp_path, {"scene.mcap": "mine"})
    Path("figures.json").write_text("edited")
    for name in ("scene.mcap", "figures.json"):
        told = CliRunner().invoke(app, ["bench", "replay", "scene.mcap", "--json", name])
        assert told.exit_code == 2
        assert "choose another name" in told.output
    for name in ("scene.mcap/figures.json", "/proc/room/figures.json"):
        told = CliRunner().invoke(app, ["bench", "roadworld", "--json", name])
        assert told.exit_code == 2
        assert "cannot be written" in told.output, "before anything is measured"
    assert content(tmp_path) == {"scene.mcap": "mine", "figures.json": "edited"}


def test_a_folder_of_its_own_is_taken_again_and_no_other(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with own_folder(tmp_path / "own", "verb") as folder:
            fill(folder, {"cache": text})
            with pytest.raises(OutputError, match="another run"), own_folder(folder, "verb"):
                pass
        write_figures(tmp_path / "own" / "figures.json", {})
    fill(tmp_path, {"mine/cache": "mine"})
    for place, verb in (("own", "other"), ("mine", "verb"), (".", "verb")):
        with pytest.raises(OutputError, match="choose another --out"):
            own_folder(tmp_path / place, verb).__enter__()
    fill(tmp_path, {"input/cache": "mine"})
    with pytest.raises(OutputError, match="which is the input"):
        own_folder(tmp_path / "input" / "out", "verb", [tmp_path / "input"]).__enter__()
    assert content(tmp_path) == {
        "own/cache": "new",
        "own/figures.json": "{}\n",
        "mine/cache": "mine",
        "input/cache": "mine",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        "train temporal --checkpoint checkpoint --out mine",
        "train temporal --checkpoint trained --out out",
        "train roadworld-nano --out mine",
        "evaluate compression --checkpoint checkpoint --out mine",
        "evaluate temporal --out mine",
    ],
)
def test_what_a_run_leaves_to_the_next_lies_over_nobodys_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    pytest.importorskip("torch")
    for name in ("checkpoint/dual/1", "trained/dual/1", "trained/temporal/config.json"):
        fill(tmp_path, {name: "mine"})
    fill(tmp_path, {"mine/int4.yaml": "mine", "mine/work/last.pt": "mine"})
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, arguments.split())
    assert told.exit_code == 2
    assert "choose another --out" in " ".join(told.output.split())
    assert content(tmp_path) == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_done_in_between_no_file_of_others_is_lost(data: st.DataObject) -> None:
    names = ["log", "bag", "pictures/1", "notes", f"{UNFINISHED}/notes", "pictures"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "out"
        mine: dict[str, str] = {}
        for step in range(3):
            files = data.draw(st.sets(st.sampled_from(["log", "bag", "pictures/1"]), min_size=1))
            with contextlib.suppress(OutputError):
                run(folder, dict.fromkeys(files, "results"), data.draw(st.sampled_from("ab")))
            name = data.draw(st.sampled_from(names))
            with contextlib.suppress(OSError):
                fill(folder, {name: f"mine {step}"})
                mine[name] = f"mine {step}"
        assert mine.items() <= content(folder).items()


@pytest.mark.parametrize("arguments", ["scene.mcap --out .", "scene.mcap --out link", ". --out x"])
def test_a_recording_is_never_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    folder = tmp_path / "recorded"
    write(folder / "bag", [jpeg(index) for index in range(3)])
    (folder / "bag" / "bag.mcap").rename(folder / "scene.mcap")
    shutil.rmtree(folder / "bag")
    fill(folder, {"overlay.mp4": "mine", "keyframes/notes.txt": "mine"})
    (folder / "link").symlink_to(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.chdir(folder)
    told = CliRunner().invoke(app, ["replay", *arguments.split()])
    assert told.exit_code == 2
    assert "choose another --out" in told.output
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
