# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A decoder whose KV cache lives on the GPU: the host sends embeddings and gets logits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.engines.base import Array, EngineError, TensorSpec
from vlm_perception.engines.tensorrt.cuda import (
    BufferPool,
    DeviceBuffer,
    PinnedBuffer,
    Stream,
    open_device,
)
from vlm_perception.engines.tensorrt.engine import engine_name
from vlm_perception.engines.tensorrt.fixed_cache import Piece, causal_scores
from vlm_perception.engines.tensorrt.program import LoadedPlan, Program, sizes_of

CACHE = "past"


@dataclass(frozen=True)
class _Layout:
    """Layout of keys and values: `rows` (layers, 2, heads) of `token` bytes a token."""

    shape: tuple[int, ...]
    rows: int
    token: int
    itemsize: int

    @property
    def capacity(self) -> int:
        """Tokens that the cache holds."""
        return self.shape[4]


class _Store:
    """Keys and values of some tokens, kept apart from the cache that the graphs read."""

    def __init__(self, pool: BufferPool, layout: _Layout, room: int) -> None:
        self.room, self.length = room, 0
        self.pitch = room * layout.token
        self.address = pool.lend(self, layout.rows * self.pitch)


class DeviceCache:
    """A prefix, and what a branch has written after it."""

    def __init__(self, prefix: _Store, tail: _Store | None = None) -> None:
        """Take over keys and values."""
        self.prefix, self.tail = prefix, tail

    @property
    def length(self) -> int:
        """How many tokens."""
        return self.prefix.length + (self.tail.length if self.tail is not None else 0)


class TensorRtDecoder:
    """A bundle's decoder with one cache on the device; one thread at a time.

    The graphs read all of the cache at a fixed length, and a mask hides what is not filled. A
    prefix stays in place while branches after it take turns: only tails are copied, on the device.
    """

    half_precision = True

    def __init__(self, path: Path) -> None:
        """Load a plan.

        Args:
            path: the plan of a decoder.

        Raises:
            EngineError: there is no GPU, or the plan does not fit.
        """
        self._device = open_device()
        self._lock = threading.Lock()
        self._pool = BufferPool(self._device)
        with self._device.entered():
            self._plan = plan = LoadedPlan(path, self._device)
        with plan.entered():
            self._stream: Stream = self._device.stream(urgent=False)
            self._layout = _layout(plan)
            layout = self._layout
            size = layout.rows * layout.capacity * layout.token
            self._cache = DeviceBuffer(self._device, size)
            # What is masked is multiplied by zero, and zero times NaN is NaN.
            self._cache.clear()
            foreign = {CACHE: self._cache.address}
            programs = [
                Program(plan, self._stream, profile=profile, foreign=foreign)
                for profile in range(plan.profiles)
            ]
        self._programs = sorted(programs, key=_tokens)
        self._held: tuple[_Store, _Store | None] | None = None
        first = self._programs[0]
        self._inputs = {name: _with_free_axes(spec) for name, spec in first.inputs.items()}
        self._outputs = {name: _with_free_axes(spec) for name, spec in first.outputs.items()}

    @property
    def name(self) -> str:
        """Engine, version and GPU, for diagnostics."""
        return engine_name(self._device)

    @property
    def capacity(self) -> int:
        """Tokens that a cache holds at most."""
        return self._layout.capacity

    @property
    def engine(self) -> TensorRtDecoder:
        """What runs the graph on plain arrays."""
        return self

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes; a word is a size that is free up to what the plan was built for."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        return self._outputs

    def prefill(self, embeds: NDArray[np.float32]) -> DeviceCache:
        """Read tokens [T, W] from the beginning."""
        with self._lock, self._plan.entered():
            store = _Store(self._pool, self._layout, len(embeds))
            cache = DeviceCache(store)
            self._held = (store, None)
            self._read(cache, embeds, np.arange(len(embeds)), causal_scores(len(embeds)), [], store)
            return cache

    def branch(self, cache: Any, room: int) -> DeviceCache:
        """A cache that begins as a prefix and may grow by `room` tokens."""
        with self._plan.entered():
            return DeviceCache(cache.prefix, _Store(self._pool, self._layout, room))

    def read(
        self,
        cache: Any,
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

        Raises:
            EngineError: there is no room for them, or the GPU failed.
        """
        with self._lock, self._plan.entered():
            self._hold(cache)
            # Their keys and values are left after the cache's; masks hide them.
            return self._read(cache, embeds, positions, mask, rows, None)

    def append(self, branch: Any, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read tokens [T, W] after a branch, which grows by them.

        Returns:
            The logits of the last one, [vocabulary].

        Raises:
            EngineError: there is no room for them, or the GPU failed.
        """
        count = len(embeds)
        with self._lock, self._plan.entered():
            self._hold(branch)
            positions = np.arange(branch.length, branch.length + count)
            rows = [count - 1]
            mask = causal_scores(count)
            logits = self._read(branch, embeds, positions, mask, rows, branch.tail)
            return np.asarray(logits[0], np.float32)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on plain arrays, as other engines do; the cache is brought here and back.

        Raises:
            EngineError: there is no room for the tokens, or the GPU failed.
        """
        past, embeds = inputs[CACHE], inputs["inputs_embeds"]
        count, seen = embeds.shape[1], past.shape[4]
        logits, new = [], []
        for one in range(len(embeds)):
            with self._lock, self._plan.entered():
                prefix = _Store(self._pool, self._layout, max(seen, 1))
                tail = _Store(self._pool, self._layout, count)
                cache = DeviceCache(prefix, tail)
                if seen:
                    self._send(prefix, past[:, :, one : one + 1])
                self._hold(cache)
                positions, rows = inputs["position_ids"][one], inputs["logit_rows"]
                mask = inputs["mask"][one, 0]
                hidden = mask[:, :seen] if seen else None
                new_mask = mask[:, seen:]
                logits.append(
                    self._read(cache, embeds[one], positions, new_mask, rows, tail, hidden)
                )
                new.append(self._fetch(tail))
        return {"logits": np.stack(logits), "new_kv": np.concatenate(new, axis=2)}

    def _read(
        self,
        cache: DeviceCache,
        embeds: NDArray[np.float32],
        positions: NDArray[Any],
        mask: NDArray[np.float32],
        rows: Sequence[int] | NDArray[np.int64],
        into: _Store | None,
        hidden: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Run the graph, piece by piece where no profile takes all tokens at once.

        Args:
            cache: what precedes the tokens, already in place.
            embeds: the tokens, [T, W].
            positions: [T].
            mask: [T, T], between them.
            rows: whose logits are wanted.
            into: keeps their keys and values.
            hidden: [T, cached], added to the scores of the cached ones; None: all are seen.
        """
        start, count = cache.length, len(embeds)
        if start + count > self.capacity:
            raise EngineError(
                f"{start} + {count} tokens do not fit the decoder's plan, which was built for "
                f"{self.capacity}; ask for less at once, or use shorter texts"
            )
        if into is not None and into.length + count > into.room:
            raise EngineError(f"a branch has room for {into.room} tokens but got more")
        wanted, logits = np.asarray(rows, np.int64), []
        last = 0
        while last < count:
            first = last
            program = self._program(count - first, with_logits=len(wanted) > 0)
            last = min(count, first + _tokens(program))
            size = last - first
            inside = (wanted >= first) & (wanted < last)
            scores = np.zeros((size, start + last), np.float32)
            if hidden is not None:
                scores[:, :start] = hidden[first:last]
            scores[:, start:] = mask[first:last, :last]
            chosen = wanted[inside] - first
            piece = Piece(embeds[first:last], positions[first:last], scores, chosen)
            logits.append(self._run_piece(program, piece, start + first, into))
        return np.concatenate(logits)

    def _run_piece(
        self, program: Program, piece: Piece, filled: int, into: _Store | None
    ) -> NDArray[np.float32]:
        """Run one program, and put the new keys and values after the `filled` ones."""
        layout, size, length = self._layout, len(piece.embeds), _tokens(program)
        program.upload(piece.padded(length, layout.capacity, filled, _places(program)))
        program.start()
        source = program.addresses["new_kv"]
        target = self._cache.address + filled * layout.token
        pitches = (layout.capacity * layout.token, length * layout.token)
        width = size * layout.token
        self._stream.copy_rows(target, source, width=width, pitches=pitches, rows=layout.rows)
        if into is not None:
            target = into.address + into.length * layout.token
            pitches = (into.pitch, length * layout.token)
            self._stream.copy_rows(target, source, width=width, pitches=pitches, rows=layout.rows)
            into.length += size
        count = len(piece.rows)
        outputs = program.download(["logits"] if count else [])
        if not outputs:
            return np.zeros((0, _width_of_logits(program)), np.float32)
        return np.asarray(outputs["logits"][0, :count], np.float32)

    def _program(self, count: int, *, with_logits: bool) -> Program:
        """The smallest program that takes this many tokens, else the largest."""
        able = [p for p in self._programs if not with_logits or _places(p) == _tokens(p)]
        return next((p for p in able if _tokens(p) >= count), able[-1])

    def _hold(self, cache: DeviceCache) -> None:
        """Bring what a cache holds into place."""
        if self._held is None or self._held[0] is not cache.prefix:
            self._place(cache.prefix, 0)
            self._held = (cache.prefix, None)
        if cache.tail is not None and self._held[1] is not cache.tail:
            self._place(cache.tail, cache.prefix.length)
        # Also where it has none: what is read after the prefix now overwrites another's tail.
        self._held = (cache.prefix, cache.tail)

    def _place(self, store: _Store, start: int) -> None:
        layout = self._layout
        if store.length:
            self._stream.copy_rows(
                self._cache.address + start * layout.token,
                store.address,
                width=store.length * layout.token,
                pitches=(layout.capacity * layout.token, store.pitch),
                rows=layout.rows,
            )

    def _send(self, store: _Store, keys_values: Array) -> None:
        """Fill a store with an array, [layers, 2, 1, heads, P, D]."""
        host = PinnedBuffer(self._device, keys_values.shape, self._dtype)
        np.copyto(host.array, keys_values, casting="same_kind")
        self._stream.upload(store.address, host.array)
        self._stream.synchronize()
        store.length = keys_values.shape[4]

    def _fetch(self, store: _Store) -> Array:
        """A full store as an array."""
        shape = (*self._layout.shape[:4], store.room, self._layout.shape[5])
        host = PinnedBuffer(self._device, shape, self._dtype)
        self._stream.download(host.array, store.address)
        self._stream.synchronize()
        return host.array.astype(np.float32)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return self._programs[0].specs[CACHE].dtype


def _layout(plan: LoadedPlan) -> _Layout:
    """Layout of the plan's cache: [layers, 2, 1, heads, P, D]."""
    shape = tuple(sizes_of(plan.engine.get_tensor_shape(CACHE)))
    itemsize = plan.dtype(CACHE).itemsize
    layers, two, _, heads, _, width = shape
    return _Layout(shape, layers * two * heads, width * itemsize, itemsize)


def _tokens(program: Program) -> int:
    size = program.inputs["inputs_embeds"].shape[1]
    assert isinstance(size, int)
    return size


def _places(program: Program) -> int:
    """How many tokens it gives logits of."""
    size = program.inputs["logit_rows"].shape[0]
    assert isinstance(size, int)
    return size


def _width_of_logits(program: Program) -> int:
    size = program.specs["logits"].shape[-1]
    assert isinstance(size, int)
    return size


def _with_free_axes(spec: TensorSpec) -> TensorSpec:
    """The tensor as the bundle's graph has it, where sizes are free that the plan fixes."""
    free = {
        "inputs_embeds": {0: "batch", 1: "new"},
        "position_ids": {0: "batch", 1: "new"},
        "mask": {0: "batch", 2: "new", 3: "total"},
        "past": {2: "batch", 4: "past"},
        "logit_rows": {0: "rows"},
        "logits": {0: "batch", 1: "rows"},
        "new_kv": {2: "batch", 4: "new"},
    }.get(spec.name, {})
    shape = tuple(free.get(axis, size) for axis, size in enumerate(spec.shape))
    return TensorSpec(spec.name, spec.dtype, shape)
