# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a run must remember to go on after an interruption as if there had been none.

The pipeline's state is pickled as it is, whatever its objects remember, but for what is loaded anew
at each start: bundle, networks, tokenizers, locks. Those are named in the pickle and looked up in
the pipeline that goes on.
"""

from __future__ import annotations

import io
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.perception.asking import Asker
from vlm_perception.perception.language import LanguageModel
from vlm_perception.perception.prefixes import NewestPrefix
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.vocabulary import VocabularyBuilder
from vlm_perception.replay.latency import PacedBundle, PacedEngine, VirtualClock, WallTimes
from vlm_perception.replay.pipeline import Pipeline
from vlm_perception.replay.schedule import Schedule

FILE = "checkpoint.pickle"
FIXTURES = (
    PacedBundle,
    Schedule,
    PacedEngine,
    VirtualClock,
    WallTimes,
    Preprocessor,
    VocabularyBuilder,
    LanguageModel,
    NewestPrefix,
    Asker,
    type(threading.Lock()),
)
TRUSTED = ("vlm_perception.", "numpy", "collections", "builtins", "copyreg")
"""A checkpoint names no others; one that does was not written by this program."""


@dataclass(frozen=True)
class Checkpoint:
    """How far a run has come."""

    frames: int
    """Frames of the recording that were taken in."""
    log_bytes: int
    """Length of the scene log up to there."""
    counts: dict[str, int]
    clock_s: float
    state: bytes

    def write(self, folder: Path) -> None:
        """Replace the checkpoint in a folder in one step."""
        temporary = folder / f".{FILE}"
        temporary.write_bytes(pickle.dumps(vars(self)))
        temporary.replace(folder / FILE)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint of an interrupted run; None where there is none that can be used."""
    try:
        fields = _Unpickler(io.BytesIO((folder / FILE).read_bytes()), {}).load()
        return Checkpoint(**fields)
    except (OSError, pickle.UnpicklingError, EOFError, TypeError, AttributeError):
        return None


def remove_checkpoint(folder: Path) -> None:
    """Forget an interrupted run."""
    (folder / FILE).unlink(missing_ok=True)


def take(pipeline: Pipeline, frames: int, log_bytes: int, counts: dict[str, int]) -> Checkpoint:
    """Take a checkpoint between two frames."""
    stream = io.BytesIO()
    _Pickler(stream, {}).dump(vars(pipeline))
    return Checkpoint(frames, log_bytes, dict(counts), pipeline.clock.now, stream.getvalue())


def restore(pipeline: Pipeline, checkpoint: Checkpoint) -> None:
    """Bring a new pipeline of the same bundle and settings into a checkpoint's state."""
    fixtures: dict[str, Any] = {}
    _Pickler(io.BytesIO(), fixtures).dump(vars(pipeline))
    vars(pipeline).update(_Unpickler(io.BytesIO(checkpoint.state), fixtures).load())
    pipeline.clock.now = checkpoint.clock_s


class _Pickler(pickle.Pickler):
    """Writes names in place of fixtures, and collects them."""

    def __init__(self, stream: io.BytesIO, fixtures: dict[str, Any]) -> None:
        super().__init__(stream)
        self._fixtures = fixtures
        self._names: dict[int, str] = {}

    def persistent_id(self, obj: Any) -> str | None:
        """Name of a fixture: its type and its place among those of that type."""
        if not isinstance(obj, FIXTURES):
            return None
        if id(obj) not in self._names:
            kind = type(obj).__name__
            number = sum(name.startswith(f"{kind} ") for name in self._names.values())
            self._names[id(obj)] = f"{kind} {number}"
            self._fixtures[f"{kind} {number}"] = obj
        return self._names[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, fixtures: dict[str, Any]) -> None:
        super().__init__(stream)
        self._fixtures = fixtures

    def persistent_load(self, pid: str) -> Any:
        """The fixture of that name."""
        if pid not in self._fixtures:
            raise pickle.UnpicklingError(f"the checkpoint names {pid}, which is not there")
        return self._fixtures[pid]

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Load only what the pipeline's state is made of."""
        if not f"{module_name}.".startswith(TRUSTED):
            raise pickle.UnpicklingError(f"the checkpoint names {module_name}.{global_name}")
        return super().find_class(module_name, global_name)
