# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What every backend is: a library that runs graphs, and all that this package knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vlm_perception.engines.base import Engine


@dataclass(frozen=True)
class GraphFile:
    """A graph that a backend is asked to run, and what is known about it without reading it."""

    path: Path
    """The .onnx file, in the directory of its bundle."""
    half: Path | None = None
    """The same network with its matrix multiplications in FP16, where the bundle has one."""
    bundle_digest: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the bundle, by name."""
    prompt: tuple[str, ...] = ()
    """What the sizes of a decoder depend on besides its file."""
    decoder: bool = False
    """Whether it reads cached keys and values; its engine may keep the cache itself, as
    `perception.language.decoder.Decoder` says."""
    urgent: bool = False
    """Whether its work goes before that of other graphs."""

    @property
    def name(self) -> str:
        """The bundle's name for it, as `vision.onnx`."""
        return self.path.name


class Backend(Protocol):
    """A library that runs graphs; `registry.py` has one row for each."""

    @property
    def name(self) -> str:
        """What parameters, diagnostics and caches call it; its engines' names begin with it."""
        ...

    @property
    def runs_plans(self) -> bool:
        """Whether it runs plans, which were built of the graphs for one machine beforehand.

        `auto` takes such a backend wherever the plans are there, and measures the others.
        """
        ...

    def version(self) -> str:
        """Version of what is installed; empty: nothing is."""
        ...

    def prepare(self, graph: GraphFile) -> Path:
        """Find what is to be loaded: the graph's own file, or the plan that fits this machine.

        Raises:
            EngineError: it cannot take the graph here; the message says why, and what to do.
        """
        ...

    def load(self, file: Path, graph: GraphFile, *, threads: int) -> Engine:
        """Load what `prepare` found.

        Args:
            file: as `prepare` returned it.
            graph: what it was prepared for.
            threads: threads of the CPU that the engine may use.

        Raises:
            EngineError: it does not load.
        """
        ...
