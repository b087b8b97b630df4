# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random cameras for the road world: what lens, sensor and file make of a rendered frame.

Domain randomisation (Tobin et al., 2017) of the camera; `dressing` is that of the street.
What moves pixels moves their identities by the same map, so that the truth stays that
of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.renderer import Rendered

_WIDTH = 640.0
"""Of the frames in whose pixels blur is stated; it grows with the frame."""
_STREAM = 21


@dataclass(frozen=True)
class _Camera:
    barrel: float
    """By how much a corner moves inwards, as a share of its distance from the middle."""
    zoom: float
    """Focal length over the shortest whose picture the frame fills."""
    roll: float
    """In radians."""
    aim: tuple[float, float]
    """-1..1 of what the frame leaves to each side."""
    vignette: float
    """Share of the light that the corners lose."""
    softness: Literal["none", "focus", "motion", "resolution"]
    """One at a time: together they would erase what the truth says is there."""
    soft: float
    """0..1."""
    direction: float
    """Of motion, in radians."""
    exposure: tuple[float, float, float]
    """Of red, green and blue, in stops: white balance is how they differ."""
    gamma: float
    noise: float
    """Standard deviation in levels."""
    quality: int
    """Of the JPEG file."""


def photographed(rendered: Rendered, seed: int, strength: float, time: float = 0.0) -> Rendered:
    """A frame as a random camera takes it and stores it.

    Colours are bounded, so that a light keeps its colour. An object's `silhouettes` change as its
    visible pixels do.

    Args:
        rendered: the frame.
        seed: of the camera.
        strength: 0..1, how far it may be from the renderer's own.
        time: in seconds; the noise differs from frame to frame, and the camera does not.
    """
    camera = _drawn(np.random.default_rng((seed, _STREAM)), strength)
    height, width = rendered.ids.shape
    columns, rows = _lens(camera, width, height)
    ids = np.asarray(cv2.remap(rendered.ids, columns, rows, cv2.INTER_NEAREST), np.uint8)
    image = np.asarray(cv2.remap(rendered.image, columns, rows, cv2.INTER_LINEAR), np.uint8)
    image = _blurred(_exposed(_vignetted(image, camera), camera), camera)
    grain = np.random.default_rng((seed, _STREAM, 1 + round(time * 1000)))
    image = _stored(_reduced(_noisy(image, camera, grain), camera), camera)
    before, after = (
        np.bincount(each.ravel(), minlength=len(rendered.objects) + 1)[1:].tolist()
        for each in (rendered.ids, ids)
    )
    silhouettes = [
        max(now, round(whole * now / was)) if was else whole
        for whole, was, now in zip(rendered.silhouettes, before, after, strict=True)
    ]
    return Rendered(image, ids, rendered.objects, silhouettes)


def _drawn(rng: np.random.Generator, strength: float) -> _Camera:
    """A camera; a stronger one of the same seed is the same, further off."""
    share, side = rng.uniform(size=7) * strength, rng.uniform(-1, 1, 8)
    # Half a stop less at most: at night more would hide what the truth says is there.
    stops = (0.65 * side[0] + 0.15) * strength
    red, blue = 0.22 * side[1:3] * strength
    softness: tuple[Literal["none", "focus", "motion", "resolution"], ...]
    softness = ("none", "focus", "motion", "resolution")
    return _Camera(
        barrel=0.22 * share[0],
        zoom=1 + 0.2 * share[1],
        roll=np.deg2rad(3.0) * side[3] * strength,
        aim=(side[4], side[5]),
        vignette=0.4 * share[2],
        softness=softness[rng.integers(len(softness))],
        soft=share[3],
        direction=np.pi * side[6],
        exposure=(stops + red, stops, stops + blue),
        gamma=2.0 ** (0.3 * side[7] * strength),
        noise=12.0 * share[4] * share[5],
        quality=round(95 - 65 * share[6]),
    )


def _lens(
    camera: _Camera, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of the frame that each pixel shows; all are within the frame."""
    half = np.array(((width - 1) / 2, (height - 1) / 2))
    x = np.linspace(-half[0], half[0], width)[None, :]
    y = np.linspace(-half[1], half[1], height)[:, None]
    swell = 1 + camera.barrel * (x * x + y * y) / (half @ half)
    cos, sin = np.cos(camera.roll), np.sin(camera.roll)
    across, down = (cos * x - sin * y) * swell, (sin * x + cos * y) * swell
    reach = np.array((np.abs(across).max(), np.abs(down).max()))
    scale = (half / reach).min() / camera.zoom
    column, row = half + np.array(camera.aim) * (half - reach * scale)
    return (across * scale + column).astype(np.float32), (down * scale + row).astype(np.float32)


def _vignetted(image: NDArray[np.uint8], camera: _Camera) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    aspect = width / height
    light = 1 - camera.vignette * (x * x * aspect**2 + y * y) / (aspect**2 + 1)
    # Of the light; the frame has levels, which are about its square root.
    levels = np.sqrt(light).astype(np.float32)
    three = cv2.merge((levels, levels, levels))
    return np.asarray(cv2.multiply(image, three, dtype=cv2.CV_8U), np.uint8)


def _exposed(image: NDArray[np.uint8], camera: _Camera) -> NDArray[np.uint8]:
    light = (np.arange(256) / 255.0) ** 2.2
    gains = 2.0 ** np.array(camera.exposure)
    curves = np.minimum(light[:, None] * gains, 1.0) ** (camera.gamma / 2.2)
    table = np.rint(255 * curves).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[:, None, :]), np.uint8)


def _blurred(image: NDArray[np.uint8], camera: _Camera) -> NDArray[np.uint8]:
    """Out of focus, or shaken while the shutter was open."""
    size = camera.soft * image.shape[1] / _WIDTH
    if camera.softness == "focus":
        sigma = 0.1 + 1.7 * size
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if camera.softness == "motion":
        reach = 4.0 * size
        half = int(np.ceil(reach)) + 1
        steps = np.linspace(-reach, reach, 8 * half + 1)
        along, across = steps * np.cos(camera.direction), steps * np.sin(camera.direction)
        edges = np.arange(-half, half + 2) - 0.5
        path, _, _ = np.histogram2d(across, along, bins=(edges, edges))
        return np.asarray(cv2.filter2D(image, -1, path / path.sum()), np.uint8)
    return image


def _noisy(
    image: NDArray[np.uint8], camera: _Camera, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Noise of the sensor, half of it the same in all colours."""
    grey = rng.standard_normal(image.shape[:2], np.float32)[..., None]
    field = (grey + rng.standard_normal(image.shape, np.float32)) * (camera.noise / np.sqrt(2))
    return np.asarray(cv2.add(image, field, dtype=cv2.CV_8U), np.uint8)


def _reduced(image: NDArray[np.uint8], camera: _Camera) -> NDArray[np.uint8]:
    """Stored with fewer pixels, and enlarged again."""
    if camera.softness != "resolution":
        return image
    height, width = image.shape[:2]
    factor = 1 + 1.2 * camera.soft
    few = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(image, few, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _stored(image: NDArray[np.uint8], camera: _Camera) -> NDArray[np.uint8]:
    file = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), camera.quality, "RGB", colorsubsampling="420"
    )
    return np.asarray(simplejpeg.decode_jpeg(file, colorspace="RGB"), np.uint8)
