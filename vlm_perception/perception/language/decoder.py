# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The decoder over cached keys and values: where the cache is kept is up to the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import DECODER_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import LanguageSpec
from vlm_perception.engines.base import Engine
from vlm_perception.perception.language.kv_cache import Cache, causal_inputs, graph_inputs


@runtime_checkable
class Decoder(Protocol):
    """Reads tokens after those of a cache; one call at a time."""

    @property
    def name(self) -> str:
        """Engine and version, for diagnostics."""
        ...

    @property
    def engine(self) -> Engine:
        """What runs the graph on plain arrays, for comparisons with stored outputs."""
        ...

    @property
    def capacity(self) -> int | None:
        """Tokens that a cache holds at most; None: any number."""
        ...

    def prefill(self, embeds: NDArray[np.float32]) -> Cache:
        """Read tokens [T, W] from the beginning."""
        ...

    def branch(self, cache: Cache, room: int) -> Cache:
        """A cache that begins as another one and may grow by `room` tokens."""
        ...

    def read(
        self,
        cache: Cache,
        embeds: NDArray[np.float32],
        positions: NDArray[np.int64],
        mask: NDArray[np.float32],
        rows: Sequence[int] | NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Read tokens after a cache, which is not modified.

        Args:
            cache: all of it is seen by each token.
            embeds: the tokens, [T, W].
            positions: their positions, [T].
            mask: [T, T], what is added to the scores between them.
            rows: the tokens whose logits are wanted.

        Returns:
            Logits, [rows, vocabulary].
        """
        ...

    def append(self, branch: Cache, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read tokens [T, W] after a branch, which grows by them.

        Returns:
            The logits of the last one, [vocabulary].
        """
        ...


def load_decoder(bundle: ModelBundle, *, threads: int, engine: str) -> Decoder:
    """Load a bundle's decoder.

    Args:
        bundle: the model; it must have a language part.
        threads: threads that the engine may use.
        engine: name of the backend.

    Raises:
        EngineError: the backend is not installed, or does not take the graph.
    """
    spec = bundle.manifest.language
    assert spec is not None
    loaded = bundle.engine(DECODER_GRAPH, threads=threads, engine=engine)
    # One that keeps the cache itself, on its device.
    return loaded if isinstance(loaded, Decoder) else HostDecoder(loaded, spec)


class HostCache:
    """Keys and values in an array, [layers, 2, 1, heads, P, D], of which the first are filled."""

    def __init__(self, keys_values: NDArray[np.float32], length: int) -> None:
        """Take over an array."""
        self._array, self.length = keys_values, length

    @property
    def keys_values(self) -> NDArray[np.float32]:
        """What is filled."""
        return self._array[:, :, :, :, : self.length]

    def write(self, keys_values: NDArray[np.float32]) -> None:
        """Append keys and values."""
        end = self.length + keys_values.shape[4]
        self._array[:, :, :, :, self.length : end] = keys_values
        self.length = end


class HostDecoder:
    """A decoder's graph in an engine that takes and gives arrays."""

    def __init__(self, engine: Engine, spec: LanguageSpec) -> None:
        """Take over an engine that holds the graph."""
        self.engine = engine
        self.capacity: int | None = None
        empty = (spec.layers, 2, 1, spec.kv_heads, 0, spec.head_dim)
        self._empty = HostCache(np.zeros(empty, np.float32), 0)

    @property
    def name(self) -> str:
        """Engine and version, for diagnostics."""
        return self.engine.name

    def prefill(self, embeds: NDArray[np.float32]) -> HostCache:
        """Read tokens [T, W] from the beginning."""
        outputs = self.engine.run(causal_inputs(embeds, self._empty.keys_values, rows=[]))
        return HostCache(outputs["new_kv"], len(embeds))

    def branch(self, cache: Cache, room: int) -> HostCache:
        """A cache that begins as another one and may grow by `room` tokens."""
        source = _host(cache).keys_values
        shape = list(source.shape)
        shape[4] += room
        branch = HostCache(np.zeros(shape, np.float32), 0)
        branch.write(source)
        return branch

    def read(
        self,
        cache: Cache,
        embeds: NDArray[np.float32],
        positions: NDArray[np.int64],
        mask: NDArray[np.float32],
        rows: Sequence[int] | NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Read tokens after a cache, which is not modified; see `Decoder`."""
        past = _host(cache).keys_values
        outputs = self.engine.run(graph_inputs(embeds, past, positions, mask, rows))
        logits: NDArray[np.float32] = outputs["logits"][0]
        return logits

    def append(self, branch: Cache, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read tokens [T, W] after a branch, which grows by them; see `Decoder`."""
        own = _host(branch)
        outputs = self.engine.run(causal_inputs(embeds, own.keys_values, rows=[len(embeds) - 1]))
        own.write(outputs["new_kv"])
        logits: NDArray[np.float32] = outputs["logits"][0, 0]
        return logits


def _host(cache: Cache) -> HostCache:
    assert isinstance(cache, HostCache)
    return cache
