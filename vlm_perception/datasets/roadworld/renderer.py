# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Draws a world as a camera sees it, far to near, with the identity of each pixel.

Light, fog and darkness are mixed into each face's colour before it is filled, so the cost hardly
depends on the weather, and little on the resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.geometry import NEAR, Array, Camera, clip_near
from vlm_perception.datasets.roadworld.mesh import Mesh, Packed
from vlm_perception.datasets.roadworld.surfaces import (
    CROSSWALK,
    PAVEMENT,
    ROAD,
    Surfaces,
    paint_face,
)
from vlm_perception.datasets.roadworld.world import CROSSING_HALF_WIDTH, Actor, Road, World

SHIFT = 4
VIEW_DISTANCE = 120.0


@dataclass(frozen=True)
class Rendered:
    """An image and what it was rendered from."""

    image: NDArray[np.uint8]
    """RGB [height, width, 3]."""
    ids: NDArray[np.uint8]
    """[height, width]: 0 for background, else 1 + the index into `objects`."""
    objects: list[Actor]
    silhouettes: list[int]
    """Pixels that each object would cover if nothing stood before it."""


@dataclass(frozen=True)
class Atmosphere:
    """How the air and the light change a colour."""

    ambient: NDArray[np.float64]
    haze: NDArray[np.float64]
    visibility: float
    zenith: NDArray[np.float64]
    headlights: float

    def shade(self, colours: Array, emissive: NDArray[np.bool_], distance: Array | float) -> Array:
        """Colours [N, 3] as seen from `distance` metres (one for all, or [N])."""
        away = np.atleast_1d(np.asarray(distance, dtype=np.float64))[:, None]
        # For a few numbers np.clip takes twice as long as its two halves.
        beam = self.headlights * np.minimum(np.maximum(1.0 - away / 45.0, 0.0), 1.0)
        lit = np.where(emissive[:, None], colours, colours * np.minimum(self.ambient + beam, 1.05))
        clear = np.exp(-away / self.visibility)
        clear_lamp = np.sqrt(clear)
        share = np.where(emissive[:, None], clear_lamp, clear)
        mixed: Array = lit * share + self.haze * (1 - share)
        return mixed


def atmosphere(world: World, rng: np.random.Generator) -> Atmosphere:
    """The air over a world."""
    ambient, haze, zenith, beam = {
        "day": ((1.0, 1.0, 1.0), (205, 220, 235), (105, 155, 215), 0.0),
        "dusk": ((0.62, 0.52, 0.52), (225, 150, 110), (75, 75, 120), 0.12),
        "night": ((0.16, 0.17, 0.23), (24, 26, 38), (8, 9, 18), 0.5),
    }[world.time_of_day]
    light = np.array(ambient) * rng.uniform(0.85, 1.08)
    far, top = np.array(haze, float), np.array(zenith, float)
    visibility = 600.0
    if world.weather != "clear":
        grey = {"day": 172.0, "dusk": 112.0, "night": 34.0}[world.time_of_day]
        far = 0.25 * far + 0.75 * grey
        top = 0.2 * top + 0.8 * grey * (0.85 if world.weather == "rain" else 0.98)
        light = light * 0.82
        visibility = 130.0 if world.weather == "rain" else float(rng.uniform(22, 48))
    return Atmosphere(light, far, visibility, top, beam)


class _Canvas:
    def __init__(self, camera: Camera, *, materials: bool) -> None:
        self.camera = camera
        self.materials = np.zeros((camera.height, camera.width), np.uint8) if materials else None
        self.image = np.empty((camera.height, camera.width, 3), np.uint8)
        self.ids = np.zeros((camera.height, camera.width), np.uint8)

    def ground(
        self,
        points: Array,
        colour: tuple[float, float, float],
        identity: int = 0,
        material: int = ROAD,
    ) -> None:
        """Fill a polygon given in world coordinates."""
        local = self.camera.to_camera(points)
        if local[:, 2].min() < NEAR:
            local = clip_near(local)
            if len(local) < 3:
                return
        pixels = _fixed(self.camera.to_pixels(local))
        cv2.fillPoly(self.image, [pixels], colour, cv2.LINE_AA, SHIFT)
        if identity:
            cv2.fillPoly(self.ids, [pixels], identity, cv2.LINE_8, SHIFT)
        if self.materials is not None:
            cv2.fillPoly(self.materials, [pixels], material, cv2.LINE_8, SHIFT)

    def convex(self, pixels: NDArray[np.int32], colour: tuple[float, ...], identity: int) -> None:
        cv2.fillConvexPoly(self.image, pixels, colour, cv2.LINE_AA, SHIFT)
        cv2.fillConvexPoly(self.ids, pixels, identity, cv2.LINE_8, SHIFT)


def _fixed(pixels: Array) -> NDArray[np.int32]:
    limited = np.minimum(np.maximum(pixels, -20000), 20000)
    fixed: NDArray[np.int32] = np.rint(limited * (1 << SHIFT)).astype(np.int32)
    return fixed


def _rgb(colour: Array) -> tuple[float, float, float]:
    red, green, blue = np.minimum(np.maximum(colour, 0), 255).tolist()
    return red, green, blue


_NOISE = np.random.default_rng(7).normal(0, 1, (800, 1400)).astype(np.float32)


def _background(canvas: _Canvas, world: World, air: Atmosphere, rng: np.random.Generator) -> None:
    camera = canvas.camera
    rows = np.arange(camera.height)
    horizon = camera.horizon
    up = np.clip((horizon - rows) / max(horizon, 1.0), 0, 1)[:, None]
    sky = air.haze * (1 - up) + air.zenith * up
    depth = camera.focal * world.mount_height / np.maximum(rows - horizon, 0.5)
    clear = np.exp(-depth / air.visibility)[:, None]
    beam = air.headlights * np.clip(1 - depth / 45, 0, 1)[:, None]
    soil = np.array(world.ground) * np.minimum(air.ambient + beam, 1.05) * clear + air.haze * (
        1 - clear
    )
    column = np.where((rows < horizon)[:, None], sky, soil)
    canvas.image[:] = np.clip(column, 0, 255).astype(np.uint8)[:, None, :]
    top = int(np.clip(horizon, 0, camera.height))
    if world.weather == "clear" and top > 8:
        seeds = rng.normal(0, 1, (5, 9)).astype(np.float32)
        cover = cv2.resize(seeds, (camera.width, top), interpolation=cv2.INTER_CUBIC)
        bright = np.clip(cover * 26.0, 0, 55) * float(air.ambient.mean())
        grey = cv2.cvtColor(bright.astype(np.uint8), cv2.COLOR_GRAY2RGB)
        cv2.add(canvas.image[:top], grey, canvas.image[:top])


def _ribbon(road: Road, s: Array, inner: float, outer: float) -> Array:
    return np.concatenate((road.route.points(s, inner), road.route.points(s[::-1], outer)))


def _surface(canvas: _Canvas, world: World, air: Atmosphere, start: float) -> None:
    road = world.road
    s = start + np.concatenate((np.arange(0.9, 20, 1.6), np.arange(20, VIEW_DISTANCE, 5.0)))
    wet = 0.72 if world.weather == "rain" else 1.0

    def paint(colour: Array, distance: float) -> tuple[float, float, float]:
        return _rgb(air.shade(colour[None], np.array([False]), distance)[0])

    half, grey = road.half_width, np.full(3, world.asphalt * wet)
    bands = ((0.9, 9.0), (8.5, 18.0), (17.0, 34.0), (32.0, 62.0), (60.0, VIEW_DISTANCE))
    for near, far in reversed(bands):
        part = s[(s - start >= near - 0.8) & (s - start <= far + 5)]
        if len(part) < 2:
            continue
        middle = (near + far) / 2.5
        canvas.ground(
            _ribbon(road, part, -half - 3.4, half + 3.4),
            paint(np.array(world.sidewalk) * wet, middle),
            material=PAVEMENT,
        )
        canvas.ground(_ribbon(road, part, -half - 2.4, half + 2.4), paint(grey * 0.96, middle))
        canvas.ground(_ribbon(road, part, -half, half), paint(grey, middle))
    for crossing in road.crossings:
        if -2 < crossing - start < VIEW_DISTANCE:
            across = np.array([crossing - CROSSING_HALF_WIDTH, crossing + CROSSING_HALF_WIDTH])
            canvas.ground(_ribbon(road, across, -70.0, 70.0), paint(grey, crossing - start))
    _markings(canvas, world, air, start)


def _markings(canvas: _Canvas, world: World, air: Atmosphere, start: float) -> None:
    """Dashes between the lanes and lines at the kerb, all moved and shaded in one go."""
    road = world.road
    firsts = np.arange(np.ceil(start / 6.0) * 6.0, start + 66.0, 6.0)
    for crossing in road.crossings:
        firsts = firsts[np.abs(firsts + 1.5 - crossing) > CROSSING_HALF_WIDTH + 1.0]
    if not len(firsts):
        return
    between = [side * lane * road.lane_width for lane in range(1, road.lanes) for side in (-1, 1)]
    lines = [(0.0, 3.0, 0.09, (225.0, 190.0, 70.0))]
    lines += [(d, 3.0, 0.07, (225.0, 225.0, 220.0)) for d in between]
    lines += [
        (side * (road.half_width - 0.15), 6.0, 0.07, (225.0, 225.0, 220.0)) for side in (-1, 1)
    ]
    s = np.stack([firsts[:, None] + np.array((0, 0.5, 1, 1, 0.5, 0)) * line[1] for line in lines])
    d = np.array([[[line[0] - line[2]] * 3 + [line[0] + line[2]] * 3] for line in lines])
    local = canvas.camera.to_camera(road.route.points(s.ravel(), (d + 0 * s).ravel()))
    pixels = _fixed(canvas.camera.to_pixels(np.maximum(local, (-np.inf, -np.inf, NEAR))))
    seen = np.atleast_1d((local[:, 2] >= NEAR).reshape(-1, 6).all(axis=1))
    colours = np.repeat(np.array([line[3] for line in lines]), len(firsts), axis=0)
    away = np.tile(firsts - start, len(lines))
    shaded = np.clip(air.shade(colours, np.zeros(len(away), bool), away), 0, 255).tolist()
    for polygon, colour, visible in zip(pixels.reshape(-1, 6, 2), shaded, seen, strict=True):
        if visible:
            cv2.fillPoly(canvas.image, [polygon], colour, cv2.LINE_AA, SHIFT)


def _crosswalk(
    canvas: _Canvas, world: World, air: Atmosphere, s: float, start: float, identity: int
) -> None:
    road = world.road
    ends = np.array([s - 1.6, s + 1.6])
    none = np.array([False])
    base = air.shade(np.full((1, 3), world.asphalt * 0.95), none, s - start)[0]
    canvas.ground(
        _ribbon(road, ends, -road.half_width, road.half_width), _rgb(base), identity, CROSSWALK
    )
    white = _rgb(air.shade(np.full((1, 3), 228.0), none, s - start)[0])
    for edge in np.arange(-road.half_width + 0.3, road.half_width - 0.4, 1.1):
        d = float(edge)
        canvas.ground(_ribbon(road, ends, d, d + 0.55), white, identity, CROSSWALK)


_SUN = np.array((-0.45, 0.35, 0.82))


def _draw_actor(
    canvas: _Canvas,
    actor: Actor,
    position: tuple[float, float],
    heading: float,
    air: Atmosphere,
    identity: int,
) -> list[tuple[float, float, float, Array]]:
    """Draw one actor; returns its lamps as (u, v, radius in pixels, colour)."""
    camera, mesh = canvas.camera, actor.mesh
    packed = mesh.packed
    offset = np.array((*position, 0.0))
    to_eye = np.array(camera.position) - offset
    yaw = float(np.arctan2(-to_eye[1], -to_eye[0])) if mesh.billboard else heading + actor.yaw
    cos_y, sin_y = np.cos(yaw), np.sin(yaw)
    turn = np.array(((cos_y, -sin_y, 0.0), (sin_y, cos_y, 0.0), (0.0, 0.0, 1.0)))
    local = camera.to_camera(packed.vertices @ turn.T + offset)
    if local[:, 2].max() < NEAR:
        return []
    depth = local[:, 2]
    crossing = depth.min() < NEAR
    pixels = camera.to_pixels(np.maximum(local, (-np.inf, -np.inf, NEAR)) if crossing else local)
    if pixels[:, 0].max() < 0 or pixels[:, 0].min() > camera.width:
        return []
    normals = packed.normals @ turn.T
    facing = np.minimum(np.maximum(normals @ _SUN, -0.6), 1)
    light = np.ones(len(normals)) if mesh.billboard else 0.72 + 0.28 * facing
    distance = float(np.hypot(to_eye[0], to_eye[1]))
    shaded = air.shade(packed.colours * light[:, None], packed.emissive, distance)
    colours = np.minimum(np.maximum(shaded, 0), 255)
    order = _drawing_order(camera, packed, local, normals, mesh.billboard)
    fixed, rgb = _fixed(pixels), colours.tolist()
    glow: list[tuple[float, float, float, Array]] = []
    for index in order:
        a, b = packed.splits[index]
        if crossing and depth[a:b].min() < NEAR:
            part = clip_near(local[a:b])
            if len(part) < 3:
                continue
            face = _fixed(camera.to_pixels(part))
        else:
            face = fixed[a:b]
        canvas.convex(face, rgb[index], identity if packed.labelled[index] else 0)
        picture = packed.pictures[index]
        if picture is not None and not crossing:
            veil = air.shade(np.zeros((1, 3)), np.array([False]), distance)[0]
            paint_face(canvas.image, pixels[a:b], picture, colours[index], veil)
        if packed.emissive[index] and not crossing:
            corners = pixels[a:b]
            u, v = corners.mean(axis=0)
            size = float(np.ptp(corners, axis=0).max()) / 2
            glow.append((float(u), float(v), size, packed.colours[index] * np.exp(-distance / 90)))
    return glow


def _drawing_order(
    camera: Camera, packed: Packed, local: Array, normals: Array, billboard: bool
) -> list[int]:
    """Indices of the faces that look at the camera, in the order of drawing."""
    if billboard:
        return list(range(len(packed.splits)))
    centres = np.add.reduceat(local, packed.starts, axis=0) / packed.lengths[:, None]
    turned = camera.to_camera(normals + np.asarray(camera.position))
    towards = np.einsum("ij,ij->i", turned, centres) < 0
    order = np.lexsort((-centres[:, 2], packed.ranks))
    return [int(index) for index in order if towards[index]]


_GLOW = np.clip(1 - np.hypot(*np.mgrid[-1:1:65j, -1:1:65j]), 0, 1).astype(np.float32) ** 2


def _add_glow(
    image: NDArray[np.uint8], u: float, v: float, radius: float, colour: Array, tall: float = 1.0
) -> None:
    """Add a soft disc of light around a lamp."""
    height, width = image.shape[:2]
    half_w, half_h = max(int(radius), 1), max(int(radius * tall), 1)
    x0, x1, y0, y1 = int(u) - half_w, int(u) + half_w + 1, int(v) - half_h, int(v) + half_h + 1
    cx0, cx1, cy0, cy1 = max(x0, 0), min(x1, width), max(y0, 0), min(y1, height)
    if cx0 >= cx1 or cy0 >= cy1:
        return
    disc = cv2.resize(_GLOW, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    disc = disc[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0]
    part = image[cy0:cy1, cx0:cx1]
    cv2.add(part, (disc[..., None] * colour).astype(np.uint8), part)


def _lamps(canvas: _Canvas, world: World, glow: list[tuple[float, float, float, Array]]) -> None:
    strength = {"day": 0.25, "dusk": 0.45, "night": 0.6}[world.time_of_day]
    for u, v, size, colour in glow:
        if size < canvas.camera.width / 80 and strength > 0.3:
            _add_glow(canvas.image, u, v, size * 3.5 + 1.0, colour * strength)
        elif strength <= 0.3:
            _add_glow(canvas.image, u, v, size * 2.2, colour * strength)
        if world.weather == "rain" and world.time_of_day != "day":
            mirrored = 2 * canvas.camera.horizon - v
            drop = mirrored + (mirrored - canvas.camera.horizon) * 0.6 + size * 6
            _add_glow(canvas.image, u, drop, size * 1.5 + 1, colour * 0.3, tall=4.0)


def _rain(canvas: _Canvas, air: Atmosphere, rng: np.random.Generator) -> None:
    height, width = canvas.image.shape[:2]
    count = int(rng.integers(110, 260))
    start = rng.uniform((-0.05, -0.1), (1.05, 1.0), (count, 2)) * (width, height)
    length = rng.uniform(0.02, 0.07, count) * height
    lean = float(rng.uniform(-0.25, 0.25))
    stop = start + np.stack((lean * length, length), axis=1)
    lines = _fixed(np.stack((start, stop), axis=1))
    bright = float(np.clip(air.haze.mean() * 1.1 + 38, 0, 255))
    overlay = canvas.image.copy()
    thickness = max(1, width // 640)
    cv2.polylines(
        overlay, list(lines), False, (bright, bright, bright), thickness, cv2.LINE_AA, SHIFT
    )
    cv2.addWeighted(overlay, 0.5, canvas.image, 0.5, 0.0, canvas.image)


def _sensor(image: NDArray[np.uint8], world: World, rng: np.random.Generator) -> None:
    """Photon noise, stronger in the dark: one field of noise, shifted at random."""
    height, width = image.shape[:2]
    sigma = {"day": 2.0, "dusk": 3.0, "night": 4.5}[world.time_of_day] * rng.uniform(0.5, 1.3)
    y, x = int(rng.integers(0, 801 - 720)), int(rng.integers(0, 1401 - 1280))
    field = _NOISE[y : y + height, x : x + width]
    if field.shape != (height, width):
        field = np.asarray(cv2.resize(_NOISE, (width, height)), np.float32)
    grain = (field * sigma).astype(np.int16)
    cv2.add(image, cv2.merge((grain, grain, grain)), image, dtype=cv2.CV_8U)


def render(
    world: World, time: float, width: int, height: int, surfaces: Surfaces | None = None
) -> Rendered:
    """Draw `world` at `time` seconds; the same arguments give the same pixels.

    Sky and ground are plain without `surfaces`.
    """
    still = np.random.default_rng((world.seed, 3))
    moving = np.random.default_rng((world.seed, 4, round(time * 1000)))
    air = atmosphere(world, still)
    if surfaces:
        air = replace(air, haze=air.haze * surfaces.haze, zenith=air.zenith * surfaces.zenith)
    camera = world.camera(time, width, height)
    start = world.ego_s(time)
    canvas = _Canvas(camera, materials=surfaces is not None)
    _background(canvas, world, air, still)
    if surfaces:
        surfaces.paint_sky(canvas.image, camera, world.weather, air.ambient)
    _surface(canvas, world, air, start)
    objects: list[Actor] = []
    silhouettes: list[int] = []

    def count(identity: int) -> int:
        return int(np.count_nonzero(canvas.ids == identity))

    for s in sorted(world.road.crosswalks, reverse=True):
        if 2.0 < s - start < 70.0 and len(objects) < 250:
            objects.append(Actor("crosswalk", Mesh(), s, 0.0))
            _crosswalk(canvas, world, air, s, start, len(objects))
            silhouettes.append(count(len(objects)))
    if surfaces and canvas.materials is not None:
        surfaces.paint_ground(canvas.image, canvas.materials, camera, start)
    glow: list[tuple[float, float, float, Array]] = []
    for actor, position, heading in _far_to_near(world, camera, time):
        identity = 0
        if actor.label and len(objects) < 250:
            objects.append(actor)
            identity = len(objects)
        glow += _draw_actor(canvas, actor, position, heading, air, identity)
        if identity:
            silhouettes.append(count(identity))
    _lamps(canvas, world, glow)
    if world.weather == "rain":
        _rain(canvas, air, moving)
    _sensor(canvas.image, world, moving)
    return Rendered(canvas.image, canvas.ids, objects, silhouettes)


def _far_to_near(
    world: World, camera: Camera, time: float
) -> list[tuple[Actor, tuple[float, float], float]]:
    start, route = world.ego_s(time), world.road.route
    moved = (actor.at(time) for actor in world.actors)
    near = [actor for actor in moved if -15.0 < actor.s - start < VIEW_DISTANCE]
    s = np.array([actor.s for actor in near])
    positions = route.points(s, np.array([actor.d for actor in near]))[:, :2]
    distances = np.hypot(*(positions - np.asarray(camera.position[:2])).T)
    headings, places = route.headings(s).tolist(), positions.tolist()
    return [
        (near[index], (places[index][0], places[index][1]), headings[index])
        for index in np.argsort(-distances, kind="stable").tolist()
    ]
