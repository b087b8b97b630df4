# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Objects on the street: vehicles, people, signs and lights of random build and colour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlm_perception.datasets.roadworld.mesh import Colour, Mesh

GLASS: Colour = (38, 48, 60)
LAMP_COLOURS: dict[str, Colour] = {
    "red": (255, 40, 30),
    "yellow": (255, 205, 30),
    "green": (40, 255, 120),
}
PAINTS: tuple[Colour, ...] = (
    (235, 235, 235),
    (180, 185, 190),
    (95, 100, 105),
    (30, 32, 36),
    (150, 25, 30),
    (25, 60, 140),
    (40, 110, 70),
    (200, 160, 90),
    (215, 120, 40),
    (120, 150, 175),
    (90, 60, 45),
    (60, 150, 160),
)
CLOTHES: tuple[Colour, ...] = (
    (200, 40, 45),
    (40, 80, 170),
    (235, 235, 230),
    (35, 35, 40),
    (60, 130, 70),
    (225, 190, 60),
    (130, 70, 140),
    (120, 120, 125),
    (230, 120, 150),
    (70, 55, 45),
)
NAMED: dict[Colour, str] = {
    (235, 235, 235): "white",
    (95, 100, 105): "grey",
    (30, 32, 36): "black",
    (150, 25, 30): "red",
    (25, 60, 140): "blue",
    (40, 110, 70): "green",
    (215, 120, 40): "orange",
    (90, 60, 45): "brown",
    (200, 40, 45): "red",
    (40, 80, 170): "blue",
    (235, 235, 230): "white",
    (35, 35, 40): "black",
    (60, 130, 70): "green",
    (225, 190, 60): "yellow",
    (130, 70, 140): "purple",
    (120, 120, 125): "grey",
    (230, 120, 150): "pink",
    (70, 55, 45): "brown",
    (240, 240, 238): "white",
    (220, 50, 40): "red",
    (245, 190, 40): "yellow",
    (40, 140, 90): "green",
    (40, 100, 190): "blue",
    (240, 240, 240): "white",
    (235, 120, 40): "orange",
    (250, 95, 20): "orange",
    (240, 75, 25): "orange",
    (215, 35, 35): "red",
    (235, 95, 25): "orange",
}
"""Colours that everybody calls by the same name; the others, such as beige or teal, have none."""
SKIN: tuple[Colour, ...] = ((235, 195, 165), (190, 140, 105), (120, 80, 58), (80, 55, 42))


def _named(rng: np.random.Generator, colours: tuple[Colour, ...]) -> tuple[Colour, str]:
    """A shade of one of these colours, and the colour's name."""
    colour = colours[rng.integers(len(colours))]
    red, green, blue = np.clip(np.array(colour) + rng.integers(-12, 13, 3), 5, 250).tolist()
    return (red, green, blue), NAMED.get(colour, "")


def _painted(
    rng: np.random.Generator, colours: tuple[Colour, ...], paint: Colour | None
) -> tuple[Colour, str]:
    """A shade of the colour that is asked for, or of any of these."""
    return _named(rng, colours if paint is None else (paint,))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return _named(rng, colours)[0]


def _lamps(mesh: Mesh, rear: float, front: float, half: float, z: float, size: float) -> None:
    for side in (-1, 1):
        y = tuple(sorted((side * half * 0.95, side * (half * 0.95 - 2 * size))))
        mesh.rear(rear, (y[0], y[1]), (z - size / 2, z + size / 2), (230, 25, 25), emissive=True)
        mesh.front(
            front, (y[0], y[1]), (z - size / 2, z + size / 2), (255, 250, 220), emissive=True
        )


def car(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A saloon, estate or van of 3.7 to 4.9 m."""
    paint, name = _painted(rng, PAINTS, paint)
    mesh = Mesh(colour=name)
    half_l, half_w = rng.uniform(1.85, 2.45), rng.uniform(0.82, 0.97)
    waist, roof = rng.uniform(0.8, 1.0), rng.uniform(1.38, 1.85)
    back, bonnet = -half_l + rng.uniform(0.05, 0.7), half_l - rng.uniform(0.8, 1.2)
    mesh.box((-half_l, half_l), (-half_w, half_w), (0.22, waist), paint)
    mesh.box(
        (back, bonnet), (-half_w * 0.93, half_w * 0.93), (waist, roof), paint, taper=0.3, rank=1
    )
    glass = (waist + 0.06, roof - 0.1)
    lean = 0.3 * 0.5
    mesh.rear(back + lean - 0.12, (-half_w * 0.75, half_w * 0.75), glass, GLASS)
    mesh.front(bonnet - lean + 0.12, (-half_w * 0.78, half_w * 0.78), glass, GLASS)
    middle = (back + bonnet) / 2
    for x in ((back + 0.28, middle - 0.05), (middle + 0.05, bonnet - 0.28)):
        mesh.sides(half_w * 0.93, x, glass, GLASS, inset=0.1)
    mesh.rear(-half_l, (-0.26, 0.26), (0.45, 0.58), (225, 225, 215))
    mesh.rear(-half_l, (-half_w, half_w), (0.22, 0.38), (45, 45, 48))
    mesh.front(half_l, (-half_w * 0.5, half_w * 0.5), (0.4, 0.6), (40, 40, 44))
    _lamps(mesh, -half_l, half_l, half_w, waist - 0.15, 0.17)
    mesh.wheels(half_w + 0.01, (-half_l * 0.62, half_l * 0.62), rng.uniform(0.3, 0.36))
    return mesh


def truck(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A cab with a closed or flat body."""
    wanted = paint
    paint, name = _painted(rng, PAINTS, wanted)
    half_w = rng.uniform(1.15, 1.3)
    length, top = rng.uniform(5.5, 8.5), rng.uniform(2.9, 3.7)
    body, body_name = _painted(rng, ((240, 240, 238), (205, 205, 200), *PAINTS), wanted)
    mesh = Mesh(colour=name if name == body_name else "")
    rear, cab = -length / 2, length / 2 - rng.uniform(1.7, 2.1)
    mesh.box((rear, length / 2), (-half_w * 0.8, half_w * 0.8), (0.5, 0.95), (42, 42, 45))
    mesh.box((rear, cab - 0.15), (-half_w, half_w), (0.95, top), body, rank=1)
    mesh.box(
        (cab, length / 2),
        (-half_w * 0.95, half_w * 0.95),
        (0.45, top * rng.uniform(0.72, 0.9)),
        paint,
        rank=1,
    )
    seam = (max(body[0] - 70, 0), max(body[1] - 70, 0), max(body[2] - 70, 0))
    mesh.rear(rear, (-0.04, 0.04), (1.0, top - 0.1), seam)
    for y in (-half_w * 0.55, half_w * 0.55):
        mesh.rear(rear, (y - 0.03, y + 0.03), (1.0, top - 0.1), seam)
    mesh.rear(rear, (-half_w, half_w), (0.95, 1.12), (190, 40, 40))
    stripe = _pick(rng, PAINTS)
    mesh.sides(half_w, (rear + 0.4, cab - 0.6), (1.6, 2.2), stripe)
    mesh.front(length / 2, (-half_w * 0.85, half_w * 0.85), (1.45, 2.15), GLASS)
    mesh.sides(half_w * 0.95, (cab + 0.4, length / 2 - 0.2), (1.45, 2.1), GLASS)
    _lamps(mesh, rear, length / 2, half_w, 0.8, 0.2)
    mesh.wheels(half_w + 0.01, (rear + 1.0, rear + 2.1, length / 2 - 1.0), 0.5)
    return mesh


def bus(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A city bus or coach with a band of windows all round."""
    half_w, top = rng.uniform(1.2, 1.3), rng.uniform(2.9, 3.3)
    paint, name = _painted(
        rng,
        (
            (220, 50, 40),
            (245, 190, 40),
            (40, 140, 90),
            (40, 100, 190),
            (240, 240, 240),
            (235, 120, 40),
        ),
        paint,
    )
    mesh = Mesh(colour=name)
    trim = _pick(rng, ((250, 250, 250), (40, 60, 110), (90, 30, 30)))
    half_l = rng.uniform(4.5, 6.0)
    mesh.box((-half_l, half_l), (-half_w, half_w), (0.35, top), paint)
    mesh.sides(half_w, (-half_l + 0.15, half_l - 0.15), (0.75, 1.05), trim)
    count = 6
    step = (2 * half_l - 0.6) / count
    for i in range(count):
        x = -half_l + 0.3 + i * step
        mesh.sides(half_w, (x + 0.08, x + step - 0.08), (1.45, top - 0.55), GLASS)
    mesh.rear(-half_l, (-half_w * 0.85, half_w * 0.85), (1.6, top - 0.5), GLASS)
    mesh.rear(
        -half_l,
        (-half_w * 0.6, half_w * 0.6),
        (top - 0.4, top - 0.12),
        (255, 170, 40),
        emissive=True,
    )
    mesh.rear(-half_l, (-half_w * 0.7, half_w * 0.7), (0.75, 1.3), trim)
    mesh.front(half_l, (-half_w * 0.92, half_w * 0.92), (1.15, top - 0.5), GLASS)
    mesh.front(
        half_l,
        (-half_w * 0.6, half_w * 0.6),
        (top - 0.4, top - 0.12),
        (255, 170, 40),
        emissive=True,
    )
    _lamps(mesh, -half_l, half_l, half_w, 0.85, 0.24)
    mesh.wheels(half_w + 0.01, (-half_l * 0.6, half_l * 0.65), 0.5)
    return mesh


def _limb(
    mesh: Mesh, a: tuple[float, float], b: tuple[float, float], width: float, colour: Colour
) -> None:
    along = np.array(b) - np.array(a)
    u, v = np.array((-along[1], along[0])) / (np.linalg.norm(along) + 1e-9) * width / 2
    mesh.flat(
        ((a[0] + u, a[1] + v), (b[0] + u, b[1] + v), (b[0] - u, b[1] - v), (a[0] - u, a[1] - v)),
        colour,
    )


def pedestrian(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A standing or walking person of 1.5 to 1.9 m."""
    mesh, height = Mesh(billboard=True), rng.uniform(1.5, 1.9)
    shirt, name = _painted(rng, CLOTHES, paint)
    trousers, skin = _pick(rng, CLOTHES), _pick(rng, SKIN)
    stride, wide = rng.uniform(0.02, 0.3), rng.uniform(0.19, 0.26)
    hip, shoulder = height * 0.5, height * 0.83
    for side in (-1, 1):
        _limb(mesh, (side * 0.08, hip), (side * (0.08 + stride), 0.0), 0.17, trousers)
        _limb(
            mesh,
            (side * wide, shoulder - 0.04),
            (side * (wide + stride * 0.6), hip - 0.05),
            0.11,
            shirt,
        )
    mesh.flat(
        (
            (-wide, hip - 0.04),
            (wide, hip - 0.04),
            (wide + 0.02, shoulder),
            (-wide - 0.02, shoulder),
        ),
        shirt,
    )
    mesh.round(0.0, height - 0.13, 0.13, skin)
    hair = _pick(rng, ((30, 25, 22), (90, 60, 35), (200, 170, 110), (130, 130, 130)))
    mesh.flat(((-0.13, height - 0.1), (0.13, height - 0.1), (0.1, height), (-0.1, height)), hair)
    if rng.random() < 0.25:
        mesh.strip((-wide, wide), (shoulder - 0.45, shoulder - 0.08), _pick(rng, CLOTHES))
    else:
        mesh.colour = name
    return mesh


def _rider(mesh: Mesh, rng: np.random.Generator, seat: float, lean: float, helmet: Colour) -> None:
    shirt, trousers = _pick(rng, CLOTHES), _pick(rng, CLOTHES)
    top = (lean, seat + 0.62)
    for side in (-1, 1):
        _limb(mesh, (side * 0.05, seat), (side * 0.12 + 0.1, seat - 0.45), 0.15, trousers)
        _limb(mesh, (side * 0.12 + 0.1, seat - 0.45), (side * 0.12, 0.3), 0.12, trousers)
    _limb(mesh, (0.0, seat - 0.05), top, 0.36, shirt)
    _limb(mesh, (top[0], top[1] - 0.08), (top[0] + 0.35, seat + 0.25), 0.1, shirt)
    mesh.round(top[0] + 0.04, top[1] + 0.15, 0.13, _pick(rng, SKIN))
    mesh.flat(
        [
            (top[0] + 0.04 + u, top[1] + v)
            for u, v in ((-0.14, 0.17), (0.14, 0.17), (0.09, 0.3), (-0.09, 0.3))
        ],
        helmet,
    )


def bicycle(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A cyclist: two thin spoked wheels, a frame of tubes and an upright rider."""
    mesh = Mesh(billboard=True)
    squeeze = rng.uniform(0.35, 1.0)
    frame, radius = _painted(rng, CLOTHES, paint)[0], 0.35
    half = 0.52 * squeeze
    for u in (-half, half):
        mesh.round(u, radius, radius, (20, 20, 22), squeeze=squeeze, corners=14)
        mesh.round(u, radius, radius - 0.07, (150, 150, 150), squeeze=squeeze, corners=14)
    for a, b in (
        ((-half, radius), (0.0, 0.3)),
        ((0.0, 0.3), (half * 0.8, 0.85)),
        ((-half, radius), (-0.15 * squeeze, 0.85)),
        ((half, radius), (half * 0.7, 1.0)),
        ((-0.15 * squeeze, 0.85), (half * 0.8, 0.85)),
    ):
        _limb(mesh, a, b, 0.06, frame)
    _rider(mesh, rng, 0.95, 0.25 * squeeze, _pick(rng, CLOTHES))
    return mesh


def motorcycle(rng: np.random.Generator, paint: Colour | None = None) -> Mesh:
    """A motorcyclist: fat wheels, a heavy body with a tail lamp and a crouched rider."""
    mesh = Mesh(billboard=True)
    squeeze = rng.uniform(0.45, 1.0)
    paint, mesh.colour = _painted(rng, PAINTS, paint)
    half = 0.7 * squeeze
    for u in (-half, half):
        mesh.round(u, 0.32, 0.32, (18, 18, 20), squeeze=max(squeeze, 0.5))
        mesh.round(u, 0.32, 0.13, (120, 120, 125), squeeze=max(squeeze, 0.5), corners=8)
    mesh.flat(
        (
            (-half * 1.1, 0.75),
            (-half * 0.4, 0.3),
            (half * 0.5, 0.3),
            (half * 0.9, 0.8),
            (half * 0.4, 0.95),
        ),
        paint,
    )
    mesh.strip((-half * 0.5, half * 0.3), (0.28, 0.5), (60, 60, 64))
    _rider(mesh, rng, 0.85, 0.35 * squeeze, _pick(rng, PAINTS))
    mesh.strip((-half * 1.1 - 0.08, -half * 1.1 + 0.1), (0.68, 0.82), (235, 30, 30), emissive=True)
    mesh.round(half * 0.95, 0.85, 0.1, (255, 250, 220), emissive=True, corners=8)
    return mesh


def traffic_light(rng: np.random.Generator, state: str) -> Mesh:
    """A three-lamp signal head with a backplate on a post, one lamp lit."""
    mesh, foot = Mesh(billboard=True), rng.uniform(2.3, 3.6)
    scale = rng.uniform(0.95, 1.2)
    tall, wide, radius = 1.45 * scale, 0.6 * scale, 0.19 * scale
    mesh.strip((-0.07, 0.07), (0.0, foot), (75, 78, 80), labelled=False)
    mesh.strip(
        (-wide / 2, wide / 2),
        (foot, foot + tall),
        _pick(rng, ((215, 190, 70), (35, 38, 40), (200, 200, 200))),
    )
    mesh.strip((-wide / 2 + 0.05, wide / 2 - 0.05), (foot + 0.05, foot + tall - 0.05), (18, 20, 20))
    for row, name in enumerate(("green", "yellow", "red")):
        v = foot + tall * (row + 0.5) / 3
        lit = name == state
        colour = LAMP_COLOURS[name]
        dim = (colour[0] // 6, colour[1] // 6, colour[2] // 6)
        mesh.round(0.0, v, radius, colour if lit else dim, emissive=lit)
    return mesh


_DIGITS = {  # segments a to g of a seven-segment digit, as (u0, u1, v0, v1)
    "0": "abcdef",
    "3": "abcdg",
    "4": "fgbc",
    "5": "afgcd",
    "6": "afgedc",
    "7": "abc",
    "8": "abcdefg",
    "9": "abcdfg",
    "2": "abged",
    "1": "bc",
}
_SEGMENTS = {
    "a": (0, 1, 1.8, 2.0),
    "b": (0.8, 1, 1, 2),
    "c": (0.8, 1, 0, 1),
    "d": (0, 1, 0, 0.2),
    "e": (0, 0.2, 0, 1),
    "f": (0, 0.2, 1, 2),
    "g": (0, 1, 0.9, 1.1),
}


def speed_limit_sign(rng: np.random.Generator) -> Mesh:
    """A white disc with a red ring and black digits (30 to 90)."""
    mesh, radius, foot = Mesh(billboard=True), rng.uniform(0.42, 0.52), rng.uniform(1.9, 2.5)
    mesh.strip((-0.05, 0.05), (0.0, foot), (110, 112, 115), labelled=False)
    centre = foot + radius
    mesh.round(0.0, centre, radius, (205, 25, 35), corners=16)
    mesh.round(0.0, centre, radius * 0.76, (245, 245, 242), corners=16)
    size = radius * 0.36
    for u, digit in ((-size * 1.25, "3456789"[rng.integers(7)]), (size * 0.25, "0")):
        for name in _DIGITS[digit]:
            u0, u1, v0, v1 = _SEGMENTS[name]
            mesh.strip(
                (u + u0 * size, u + u1 * size),
                (centre + (v0 - 1) * size, centre + (v1 - 1) * size),
                (20, 20, 22),
            )
    return mesh


def stop_sign(rng: np.random.Generator) -> Mesh:
    """A red octagon with a white rim and the strokes of its word."""
    mesh, radius, foot = (
        Mesh(billboard=True, colour="red"),
        rng.uniform(0.45, 0.55),
        rng.uniform(1.9, 2.4),
    )
    mesh.strip((-0.05, 0.05), (0.0, foot), (110, 112, 115), labelled=False)
    centre = foot + radius
    mesh.round(0.0, centre, radius, (240, 240, 240), corners=8)
    mesh.round(0.0, centre, radius * 0.92, (190, 18, 28), corners=8)
    letter = radius * 0.26
    for i, strokes in enumerate(("afgcd", "am", "abcdef", "abgef")):
        u = (i - 2) * letter * 1.45 + letter * 0.22
        for name in strokes:
            u0, u1, v0, v1 = (0.4, 0.6, 0, 2) if name == "m" else _SEGMENTS[name]
            mesh.strip(
                (u + u0 * letter, u + u1 * letter),
                (centre + (v0 - 1) * letter, centre + (v1 - 1) * letter),
                (245, 245, 245),
            )
    return mesh


def cone(rng: np.random.Generator) -> Mesh:
    """An orange traffic cone with white sleeves."""
    mesh, height = Mesh(billboard=True), rng.uniform(0.75, 1.05)
    orange, mesh.colour = _named(rng, ((250, 95, 20), (240, 75, 25)))
    half = height * 0.27
    mesh.strip((-half * 1.35, half * 1.35), (0.0, 0.07), (60, 45, 40))
    for low, high, colour in (
        (0.05, 0.35, orange),
        (0.35, 0.55, (245, 245, 245)),
        (0.55, 0.72, orange),
        (0.72, 0.85, (245, 245, 245)),
        (0.85, 1.0, orange),
    ):
        a, b = half * (1 - low) + 0.03, half * (1 - high) + 0.03
        mesh.flat(
            ((-a, height * low), (a, height * low), (b, height * high), (-b, height * high)), colour
        )
    return mesh


def barrier(rng: np.random.Generator) -> Mesh:
    """A construction barrier: slanted red and white boards on two feet."""
    mesh, half, height = Mesh(billboard=True), rng.uniform(0.8, 1.2), rng.uniform(0.95, 1.15)
    for u in (-half * 0.8, half * 0.8):
        mesh.strip((u - 0.05, u + 0.05), (0.0, height), (90, 92, 95))
    colour, mesh.colour = _named(rng, ((215, 35, 35), (235, 95, 25)))
    for low, high in ((height - 0.38, height), (height * 0.25, height * 0.25 + 0.25)):
        mesh.strip((-half, half), (low, high), (245, 245, 245))
        step, lean = 2 * half / 5, (high - low) * 0.7
        for i in range(5):
            u = -half + i * step
            mesh.flat(
                (
                    (u, low),
                    (u + step / 2, low),
                    (min(u + step / 2 + lean, half), high),
                    (min(u + lean, half), high),
                ),
                colour,
            )
    return mesh


def building(rng: np.random.Generator) -> Mesh:
    """A block with rows of windows; some shine at dusk and night."""
    mesh = Mesh()
    half_l, depth, floors = rng.uniform(4, 9), rng.uniform(6, 12), int(rng.integers(2, 7))
    top = 1.0 + floors * 3.0
    wall = _pick(
        rng,
        (
            (165, 120, 95),
            (190, 180, 165),
            (140, 140, 145),
            (200, 170, 130),
            (120, 95, 85),
            (215, 210, 200),
            (110, 120, 135),
        ),
    )
    mesh.box((-half_l, half_l), (-depth / 2, depth / 2), (0.0, top), wall)
    bays = int(rng.integers(3, 6))
    for floor in range(floors):
        z = (1.2 + floor * 3.0, 2.8 + floor * 3.0)
        lit = rng.random() < 0.4
        for bay in range(bays):
            x0 = -half_l + (bay + 0.2) * 2 * half_l / bays
            x1 = -half_l + (bay + 0.8) * 2 * half_l / bays
            for y, (a, b) in ((-depth / 2, (x0, x1)), (depth / 2, (x1, x0))):
                mesh.add(
                    ((a, y, z[0]), (b, y, z[0]), (b, y, z[1]), (a, y, z[1])),
                    (225, 190, 120) if lit and bay % 2 else (70, 82, 95),
                    rank=1,
                )
        mesh.rear(-half_l, (-depth * 0.4, depth * 0.4), z, (70, 82, 95))
    return mesh


def tree(rng: np.random.Generator) -> Mesh:
    """A trunk and a crown of overlapping rounds."""
    mesh, height = Mesh(billboard=True), rng.uniform(3.5, 7.5)
    mesh.strip((-0.14, 0.14), (0.0, height * 0.5), (85, 65, 48))
    green = np.array((60, 105, 50)) + rng.integers(-22, 23, 3)
    for i in range(5):
        shade = np.clip(green + (i - 2) * 9, 8, 240).tolist()
        mesh.round(
            rng.uniform(-0.9, 0.9),
            height * rng.uniform(0.55, 0.85),
            height * 0.19,
            (shade[0], shade[1], shade[2]),
        )
    return mesh


def street_lamp(rng: np.random.Generator) -> Mesh:
    """A post with a shining head."""
    mesh, height = Mesh(billboard=True), rng.uniform(5.0, 7.0)
    mesh.strip((-0.06, 0.06), (0.0, height), (95, 98, 100))
    mesh.strip((-0.5, 0.06), (height - 0.08, height), (95, 98, 100))
    mesh.strip((-0.6, -0.25), (height - 0.16, height - 0.06), (255, 235, 190))
    return mesh


BUILDERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "motorcycle": motorcycle,
    "bicycle": bicycle,
    "pedestrian": pedestrian,
    "stop sign": stop_sign,
    "speed-limit sign": speed_limit_sign,
    "cone": cone,
    "barrier": barrier,
    "building": building,
    "tree": tree,
    "street lamp": street_lamp,
}
PAINTED: dict[str, Callable[[np.random.Generator, Colour | None], Mesh]] = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "motorcycle": motorcycle,
    "bicycle": bicycle,
    "pedestrian": pedestrian,
}
"""What can be had in a colour: its paint, its frame, or its jacket."""
