# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tiles that are multiplied on a surface's colour: a level of 128 leaves it as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 128
"""Width and height of a tile in pixels; its opposite edges fit each other, or nearly."""
NEUTRAL = 128.0
VARIANTS = 6
_BLURS = (0.0, 2.0, 7.0)
"""Of a tile's levels in pixels: what is far is drawn from a blurred one, or it would sparkle."""

Tile = NDArray[np.uint8]
_Field = NDArray[np.float32]


def _noise(rng: np.random.Generator) -> _Field:
    field = np.zeros((TILE, TILE), np.float32)
    for cells in (3, 8, 20, 50, TILE):
        some = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        large = cv2.resize(some, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
        field += np.asarray(large, np.float32)
    return field * 15


def _bricks(rng: np.random.Generator) -> _Field:
    courses, across = int(rng.integers(8, 22)), int(rng.integers(4, 10))
    rows, columns = np.mgrid[0:TILE, 0:TILE]
    course = rows * courses // TILE
    along = columns * across / TILE + 0.5 * (course % 2)
    shade = rng.normal(0, 14, (courses, across + 1))[course, along.astype(int)]
    joint = (rows * courses % TILE < courses) | (along % 1 < 0.1)
    return np.where(joint, -38, shade + 8).astype(np.float32)


def _slabs(rng: np.random.Generator) -> _Field:
    cells = int(rng.integers(2, 7))
    rows, columns = np.mgrid[0:TILE, 0:TILE] * cells
    shade = rng.normal(0, 12, (cells, cells))[rows // TILE, columns // TILE]
    joint = np.minimum(rows % TILE, columns % TILE) < 2 * cells
    field = np.where(joint, -30, shade) + 0.3 * _noise(rng)
    return np.asarray(field, np.float32)


def _stripes(rng: np.random.Generator) -> _Field:
    turns = int(rng.integers(3, 14)) * np.arange(TILE) / TILE
    wave = np.sign(np.sin(2 * np.pi * turns)) * rng.uniform(12, 45)
    field = np.repeat(wave[None], TILE, axis=0)
    return (field if rng.random() < 0.5 else field.T).astype(np.float32) + 0.3 * _noise(rng)


def _leaves(rng: np.random.Generator) -> _Field:
    field = np.zeros((TILE, TILE), np.float32)
    for x, y in rng.integers(0, TILE, (260, 2)).tolist():
        axes = (int(rng.integers(2, 8)), int(rng.integers(1, 4)))
        shade = float(rng.normal(0, 32))
        cv2.ellipse(field, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, shade, -1)
    return field


def _panes(rng: np.random.Generator) -> _Field:
    across, floors = int(rng.integers(3, 9)), int(rng.integers(3, 9))
    rows, columns = np.mgrid[0:TILE, 0:TILE]
    u, v = columns * across / TILE, rows * floors / TILE
    wide, tall = rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35)
    glass = (np.abs(u % 1 - 0.5) < 0.5 - wide) & (np.abs(v % 1 - 0.5) < 0.5 - tall)
    pane = rng.normal(-55, 22, (floors, across))[v.astype(int), u.astype(int)]
    return np.where(glass, pane, 10).astype(np.float32) + 0.3 * _noise(rng)


_KINDS: dict[str, Callable[[np.random.Generator], _Field]] = {
    "noise": _noise,
    "bricks": _bricks,
    "slabs": _slabs,
    "stripes": _stripes,
    "leaves": _leaves,
    "panes": _panes,
}


@cache
def tile(kind: str, variant: int) -> Tile:
    """A tile [TILE, TILE, 3] of a kind: noise, bricks, slabs, stripes, leaves or panes."""
    rng = np.random.default_rng((89, sorted(_KINDS).index(kind), variant))
    grey = np.clip(NEUTRAL + _KINDS[kind](rng), 0, 255).astype(np.uint8)
    return cv2.merge((grey, grey, grey)).astype(np.uint8)


@cache
def levels(kind: str, variant: int) -> Tile:
    """A tile's `stacked` levels."""
    return stacked(tile(kind, variant))


def stacked(pixels: Tile) -> Tile:
    """A tile, blurred more and more: [len(_BLURS) x TILE, TILE, 3]."""
    wide = cv2.copyMakeBorder(pixels, *(32,) * 4, cv2.BORDER_WRAP)
    blurred = [
        cv2.GaussianBlur(wide, (0, 0), blur)[32:-32, 32:-32] if blur else pixels for blur in _BLURS
    ]
    return np.ascontiguousarray(np.concatenate(blurred)).astype(np.uint8)


def level_of(texels: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which level shows a place where a pixel is so many texels tall."""
    return np.searchsorted((2.5, 10.0), texels)
