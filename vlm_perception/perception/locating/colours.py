# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How well pixels fit the name of a colour.

Dual encoders bind a colour to its thing badly: "a red car" also fits a scene with a blue car and a
red bus (Lewis et al., Does CLIP Bind Concepts?, 2022). The names are the eleven basic ones (Berlin
and Kay, Basic Color Terms, 1969).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((25, 25, 28),),
    "grey": ((120, 120, 122), (95, 95, 98)),
    "white": ((238, 238, 235),),
    "red": ((200, 35, 40), (140, 20, 25)),
    "orange": ((235, 110, 35),),
    "yellow": ((235, 195, 50),),
    "green": ((45, 130, 75), (90, 170, 70)),
    "blue": ((30, 75, 170), (25, 45, 110)),
    "purple": ((130, 60, 150),),
    "pink": ((235, 130, 165),),
    "brown": ((85, 58, 42),),
}
"""Typical shades, RGB, by daylight."""
SPELT = {"gray": "grey", "violet": "purple"}
SOFT = 20.0
"""Distance in CIELAB over which a colour fits two names."""
SHADES = 16
"""Bins of each channel: colours in one bin count as equal."""


def binned(pixels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Number of the bin of each pixel, [...]; pixels are RGB [..., 3]."""
    bins = (pixels // (256 // SHADES)).astype(np.intp)
    return np.asarray((bins[..., 0] * SHADES + bins[..., 1]) * SHADES + bins[..., 2], np.intp)


def fits(bins: NDArray[np.intp], name: str, light: NDArray[np.float64]) -> NDArray[np.float32]:
    """How well each pixel fits the name of a colour, from 0 to 1.

    Args:
        bins: of the pixels, [...].
        name: one of COLOURS.
        light: of the scene, as `light_of` gives it; it is taken out of the pixels.
    """
    present = np.flatnonzero(np.bincount(bins.ravel(), minlength=SHADES**3))
    channels = np.stack((present // SHADES**2, present // SHADES % SHADES, present % SHADES), 1)
    colours = (channels + 0.5) * (256 // SHADES) / light
    names = [key for key, shades in COLOURS.items() for _ in shades]
    distance = np.linalg.norm(_lab(colours)[:, np.newaxis] - _lab(_shades()), axis=2)
    powers = np.exp(-(distance - distance.min(axis=1, keepdims=True)) / SOFT)
    of = powers[:, [index for index, key in enumerate(names) if key == name]].max(axis=1)
    table = np.zeros(SHADES**3, np.float32)
    table[present] = of / powers.sum(axis=1)
    return np.asarray(table[bins], np.float32)


def light_of(scene: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What divides the colours of a scene so that its mean is a middle grey, [3].

    The world is grey on average (Buchsbaum, A spatial processor model for object colour perception,
    1980).
    """
    return np.asarray(np.maximum(cv2.mean(scene)[:3], 20.0) / 120.0, np.float64)


def _shades() -> NDArray[np.float64]:
    return np.array([shade for shades in COLOURS.values() for shade in shades], np.float64)


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of sRGB values of 0 to 255, [..., 3]; brighter ones are clipped."""
    values = np.clip(rgb / 255.0, 0.0, 1.0)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    )
    xyz = linear @ to_xyz.T / np.array((0.9505, 1.0, 1.089))
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(cube, -1, 0)
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)
