# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a run must remember to go on after an interruption as if there had been none.

What the pipeline's objects remember is kept as plain data: numbers, texts, arrays, and records of
known kinds. It is put back into the objects of a newly built pipeline; a file names no code. What
is loaded or configured at each start (bundle, networks, tokenizers, settings) is left as the new
pipeline has it.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception import types
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import TemporalSpec
from vlm_perception.perception.details import Details
from vlm_perception.perception.fusion import rules, scene
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.reasoning import keyframes, reasoner
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder
from vlm_perception.replay import pipeline as pipelines
from vlm_perception.replay.pipeline import Pipeline
from vlm_perception.replay.recorded_schedule import Schedule
from vlm_perception.replay.settings import PipelineSettings
from vlm_perception.replay.virtual_time import LatencyModel, PacedEngine, VirtualClock, WallTimes

FILE = "checkpoint.json"
FIXTURES = (
    ModelBundle,
    Schedule,
    PacedEngine,
    VirtualClock,
    WallTimes,
    Preprocessor,
    Details,
    Vocabulary,
    VocabularyBuilder,
    LanguageService,
    TemporalSpec,
    LatencyModel,
    PipelineSettings,
    keyframes.KeyframeSettings,
    scene.FusionSettings,
    type(threading.Lock()),
)
RECORDS: dict[str, Any] = {
    name: kind
    for module in (types, reasoner, keyframes, scene, rules, pipelines)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Enum))
}
"""Dataclasses and enumerations of which the state may hold values."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """How far a run has come."""

    frames: int
    """Frames of the recording that were taken in."""
    log_bytes: int
    """Length of the scene log up to there."""
    parts: int
    """Parts of the bag that are whole."""
    counts: dict[str, int]
    clock_s: float
    state: Any
    """Plain data, as JSON has it."""

    def write(self, folder: Path) -> None:
        """Replace the checkpoint in a folder in one step."""
        temporary = folder / f".{FILE}"
        temporary.write_text(json.dumps(vars(self)), encoding="utf-8")
        temporary.replace(folder / FILE)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint of an interrupted run; None where there is none that can be used."""
    try:
        return Checkpoint(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def take(
    pipeline: Pipeline, frames: int, log_bytes: int, parts: int, counts: Mapping[str, int]
) -> Checkpoint:
    """Take a checkpoint between two frames.

    Raises:
        TypeError: an object of the pipeline is neither plain data nor known here.
    """
    state = _plain(pipeline)
    return Checkpoint(frames, log_bytes, parts, dict(counts), pipeline.clock.now, state)


def restore(pipeline: Pipeline, checkpoint: Checkpoint) -> bool:
    """Bring a new pipeline of the same bundle and settings into a checkpoint's state.

    Returns:
        False when the state is not one of such a pipeline, which is then left as it was.
    """
    fresh = _plain(pipeline)
    try:
        _restored(pipeline, checkpoint.state)
    # What was written into the file makes any of these.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("the interrupted run cannot be resumed (%r) and starts over", error)
        _restored(pipeline, fresh)
        return False
    pipeline.clock.now = checkpoint.clock_s
    return True


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON lacks becomes an object with one key, which names it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kinds, name, content in TO_PLAIN:
        if isinstance(value, kinds):
            return {name: content(value)}
    if type(value).__module__.startswith("vlm_perception."):
        return {"object": _content(value, vars(value))}
    raise TypeError(f"{type(value)} cannot be saved")


def _restored(found: Any, plain: Any) -> Any:
    """The value of plain data; objects are those found in its place."""
    if not isinstance(plain, dict):
        return plain
    ((name, content),) = plain.items()
    return FROM_PLAIN[name](found, content)


def _content(value: Any, names: Iterable[str]) -> list[Any]:
    return [type(value).__name__, {name: _plain(getattr(value, name)) for name in names}]


def _items(values: Iterable[Any]) -> list[Any]:
    return [_plain(each) for each in values]


def _array(value: Any) -> list[Any]:
    array = np.asarray(value)
    content = base64.b64encode(array.tobytes()).decode("ascii")
    return [array.dtype.str, list(array.shape), content]


TO_PLAIN: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (FIXTURES, "fixture", lambda value: type(value).__name__),
    (Enum, "enum", lambda value: [type(value).__name__, value.name]),
    (np.ndarray, "array", _array),
    (np.generic, "scalar", _array),
    (dict, "dict", lambda value: [[_plain(key), _plain(each)] for key, each in value.items()]),
    (tuple, "tuple", _items),
    (frozenset, "frozenset", _items),
    (deque, "deque", _items),
    (set, "set", _items),
    (list, "list", _items),
    (
        tuple(RECORDS.values()),
        "record",
        lambda value: _content(value, [each.name for each in fields(value)]),
    ),
)


def _restored_items(found: Any, content: list[Any]) -> list[Any]:
    return [_restored(None, each) for each in content]


def _restored_array(found: Any, content: list[Any]) -> Any:
    dtype, shape, text = content
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()


def _restored_dict(found: Any, content: list[Any]) -> dict[Any, Any]:
    known = found if isinstance(found, dict) else {}
    pairs = [(_restored(None, key), each) for key, each in content]
    return {key: _restored(known.get(key), each) for key, each in pairs}


def _restored_record(found: Any, content: list[Any]) -> Any:
    name, values = content
    return RECORDS[name](**{key: _restored(None, each) for key, each in values.items()})


def _restored_object(found: Any, content: list[Any]) -> Any:
    """The object that is there, with what it remembers."""
    name, values = content
    if type(found).__name__ != name or vars(found).keys() != values.keys():
        raise TypeError(f"{name} does not match the pipeline's")
    for key, each in values.items():
        setattr(found, key, _restored(getattr(found, key), each))
    return found


FROM_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "fixture": lambda found, _: found,
    "enum": lambda _, content: RECORDS[content[0]][content[1]],
    "array": _restored_array,
    "scalar": lambda found, content: _restored_array(found, content)[()],
    "dict": _restored_dict,
    "tuple": lambda found, content: tuple(_restored_items(found, content)),
    "frozenset": lambda found, content: frozenset(_restored_items(found, content)),
    "deque": lambda found, content: deque(_restored_items(found, content), found.maxlen),
    "set": lambda found, content: set(_restored_items(found, content)),
    "list": _restored_items,
    "record": _restored_record,
    "object": _restored_object,
}
