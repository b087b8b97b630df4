# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What takes seconds to make is made by one of a run's processes, and taken over by the others."""

from __future__ import annotations

import fcntl
import hashlib
import io
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from vlm_perception.deploy.onnx.writer import write_graph


def made_once(place: Path, make: Callable[[Path], object]) -> Path:
    """A file or folder that the first process to ask for it makes, while others wait."""
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            beside = place.with_name(f"{place.name}.unfinished")
            make(beside)
            beside.rename(place)
    return place


class GraphStore:
    """`write_graph`, which keeps each graph by all that it is made of.

    An export takes seconds, and most checkpoints of the tests have a text tower or a decoder that
    another has, too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def write(
        self,
        module: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        outputs: Sequence[str],
        path: Path,
        dynamic: Mapping[str, Mapping[int, str]] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """As `write_graph`."""
        # What was traced holds functions that cannot be pickled; one test module makes such.
        if isinstance(module, torch.fx.GraphModule):
            write_graph(module, inputs, outputs, path, dynamic, release)
            return
        kept = self._folder / _digest((module.eval(), inputs, outputs, dynamic))
        made_once(kept, lambda file: write_graph(module, inputs, outputs, file, dynamic))
        shutil.copyfile(kept, path)
        release()


class _Pickler(pickle.Pickler):
    """Writes tensors and configs by their content: not where they lie in memory or came from."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            content = value.numpy(force=True)
            return tuple, ([str(content.dtype), content.shape, content.tobytes()],)
        if isinstance(value, PreTrainedConfig):
            fields = value.to_dict()
            fields.pop("_name_or_path", None)
            return tuple, (sorted(fields.items()),)
        return NotImplemented


def _digest(value: object) -> str:
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    # One object twice is as two equal ones.
    pickler.fast = True
    pickler.dump(value)
    return hashlib.sha256(stream.getvalue()).hexdigest()
