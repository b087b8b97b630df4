# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random sky and ground of a street, and pictures on flat faces."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.geometry import Array, Camera
from vlm_perception.datasets.roadworld.textures import (
    NEUTRAL,
    TILE,
    VARIANTS,
    Tile,
    level_of,
    levels,
    stacked,
)

SOIL, PAVEMENT, ROAD, CROSSWALK = range(4)
"""What the ground is made of. A crosswalk is an object: no photograph covers it."""
_MATERIALS: tuple[tuple[str, ...], ...] = (
    ("noise", "leaves", "leaves", "stripes"),
    ("slabs", "bricks", "noise"),
    ("noise", "noise", "noise", "slabs"),
)
_SMALLEST = 12
"""Faces below so many pixels show no picture."""
_SKY_SHARE = {"clear": 0.92, "rain": 0.3, "fog": 0.12}
"""How much of a photograph is left of a sky that the weather covers."""


@dataclass(frozen=True)
class Surfaces:
    """How sky and ground of one street look."""

    haze: Array
    """Gains of red, green and blue at the horizon."""
    zenith: Array
    """The same overhead."""
    clouds: NDArray[np.uint8]
    """[h, w] multiplied on the sky, as a tile is."""
    ground: Tile
    """The `stacked` tiles of the four materials, one below the other."""
    metres: float
    """That a tile is wide."""
    sky: NDArray[np.uint8] | None = None
    """A photograph in the place of the sky, RGB."""

    def paint_sky(self, image: Tile, camera: Camera, weather: str, light: Array) -> None:
        """Clouds or a photograph, down to the horizon.

        Args:
            image: the frame; it is changed.
            camera: that sees it.
            weather: one of WEATHERS.
            light: share of red, green and blue that the time of day leaves.
        """
        top = int(np.clip(camera.horizon, 0, camera.height))
        if top < 8:
            return
        size, seen = (camera.width, top), image[:top]
        if self.sky is not None:
            photograph = cv2.resize(self.sky, size, interpolation=cv2.INTER_LINEAR)
            dark = cv2.LUT(photograph, _table(255 * np.minimum(light, 1.0), np.zeros(3), 255.0))
            share = _SKY_SHARE[weather]
            cv2.addWeighted(dark, share, seen, 1 - share, 0.0, seen)
            return
        clouds = cv2.resize(self.clouds, size, interpolation=cv2.INTER_LINEAR)
        cv2.multiply(seen, cv2.merge((clouds, clouds, clouds)), seen, 1 / NEUTRAL)

    def paint_ground(self, image: Tile, materials: Tile, camera: Camera, along: float) -> None:
        """Multiply the tile of each pixel's material on it.

        Args:
            image: the frame; it is changed.
            materials: of each pixel.
            camera: that sees it.
            along: metres along the road to where it stands.
        """
        top = int(np.clip(np.ceil(camera.horizon + 1), 0, camera.height))
        if top >= camera.height:
            return
        rows = np.arange(top, camera.height)
        depth = camera.focal * camera.position[2] / (rows - camera.horizon)
        scale = TILE / self.metres
        texels = depth * depth / (camera.focal * camera.position[2]) * scale
        down = ((depth + along) * scale).astype(np.int64) % TILE + TILE * level_of(texels)
        right = (np.arange(camera.width) - camera.width / 2) * (scale / camera.focal)
        places = np.empty((len(rows), camera.width, 2), np.int16)
        places[..., 0] = (right.astype(np.float32) * depth[:, None].astype(np.float32)).astype(
            np.int32
        ) & (TILE - 1)
        places[..., 1] = materials[top:] * np.int16(len(self.ground) // 4)
        places[..., 1] += down.astype(np.int16)[:, None]
        tiles = cv2.remap(self.ground, places, None, cv2.INTER_NEAREST)  # type: ignore[call-overload]
        cv2.multiply(image[top:], tiles, image[top:], 1 / NEUTRAL)


def draw_surfaces(
    rng: np.random.Generator, strength: float, photographs: NDArray[np.uint8] | None
) -> Surfaces:
    """Surfaces of a street.

    Args:
        rng: that they are drawn from; as often with photographs as without.
        strength: 0..1, how far they may be from the plain ones.
        photographs: [n, h, w, 3] that sky and ground may show.
    """
    gains = np.exp(
        strength * (rng.normal(0, 0.12, (2, 1)) + rng.normal(0, ((0.05,), (0.1,)), (2, 3)))
    )
    cells = (int(rng.integers(3, 9)), int(rng.integers(3, 14)))
    cover = cv2.resize(rng.normal(0, 1, cells).astype(np.float32), (80, 40)) * strength
    clouds = np.clip(NEUTRAL + rng.uniform(0, 34) * cover, 60, 255).astype(np.uint8)
    tiles = [
        _tinted(levels(kinds[rng.integers(len(kinds))], int(rng.integers(VARIANTS))), rng, strength)
        for kinds in _MATERIALS
    ]
    tiles.append(tiles[ROAD])
    shown, chosen = rng.random(4) < 0.5 * strength, rng.random(4)
    metres, sky = float(rng.uniform(1.5, 5.0)), None
    if photographs is not None:
        picked = photographs[(chosen * len(photographs)).astype(int)]
        sky = picked[3] if shown[3] else None
        for material in (SOIL, PAVEMENT, ROAD):
            if shown[material]:
                tiles[material] = stacked(_as_tile(picked[material]))
    gains = np.clip(gains, 0.75, 1.3)
    return Surfaces(gains[0], gains[1], clouds, np.concatenate(tiles), metres, sky)


def _tinted(pixels: Tile, rng: np.random.Generator, strength: float) -> Tile:
    """A tile of a random contrast and colour."""
    contrast = float(rng.uniform(0.1, 1.1)) * strength
    tint = 1 + strength * rng.uniform(-0.08, 0.08, 3)
    return np.asarray(
        cv2.LUT(pixels, _table(NEUTRAL * contrast * tint, NEUTRAL * (1 - contrast) * tint)),
        np.uint8,
    )


def _as_tile(photograph: NDArray[np.uint8]) -> Tile:
    """The middle of a photograph, mirrored so that edges fit, as bright as other tiles."""
    half = TILE // 2
    height, width = photograph.shape[:2]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    small = cv2.resize(photograph[y : y + side, x : x + side], (half, half))
    wide = cv2.hconcat((small, cv2.flip(small, 1)))
    whole = cv2.vconcat((wide, cv2.flip(wide, 0)))
    gain = NEUTRAL / max(float(small.mean()), 32.0)
    return np.asarray(cv2.convertScaleAbs(whole, alpha=gain), np.uint8)


def paint_face(image: Tile, corners: Array, picture: Tile, colour: Array, air: Array) -> None:
    """Multiply a picture on a face that has been filled.

    Args:
        image: the frame; it is changed.
        corners: [4, 2] in pixels, of the picture's bottom left, bottom right, top right, top left.
        picture: as a tile.
        colour: of the face as it is seen.
        air: the part of it that comes from the air before it.
    """
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int).tolist()
    if x1 - x0 < _SMALLEST or y1 - y0 < _SMALLEST or np.abs(corners).max() > 8 * width:
        return
    h, w = picture.shape[:2]
    target = (corners - (x0, y0)).astype(np.float32)
    source = np.array(((0, h), (w, h), (w, 0), (0, 0)), np.float32)
    turn = cv2.getPerspectiveTransform(source, target)
    lit = cv2.LUT(picture, _table(colour - air, air))
    part = image[y0:y1, x0:x1]
    warped = cv2.warpPerspective(lit, turn, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(target).astype(np.int32), 1)
    cv2.copyTo(warped, mask, part)


def _table(gain: Array, offset: Array, neutral: float = NEUTRAL) -> NDArray[np.uint8]:
    """[256, 1, 3]: `gain` x level / `neutral` + `offset` for each level of each colour."""
    curve = np.arange(256)[:, None] / neutral * gain + offset
    return np.clip(curve, 0, 255).astype(np.uint8)[:, None]
