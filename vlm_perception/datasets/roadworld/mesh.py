# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Meshes of flat coloured faces, small enough to be drawn by the hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Face:
    """A flat polygon: vertices [n, 3] in metres, RGB colour."""

    vertices: NDArray[np.float64]
    colour: Colour
    emissive: bool = False
    """Shines by itself: neither dusk nor night darkens it."""
    labelled: bool = True
    """Counts as part of the object (a sign's pole does not)."""
    rank: int = 0
    """Faces of a higher rank are drawn later (a window on its wall)."""
    picture: NDArray[np.uint8] | None = None
    """Multiplied on the colour of a face of four corners, as `textures` has it; their order is the
    picture's bottom left, bottom right, top right, top left."""
    board: bool = False
    """A photograph may stand in the place of the picture."""


@dataclass(frozen=True)
class Packed:
    """A mesh with its faces stacked, so that one matrix product moves them all."""

    vertices: NDArray[np.float64]
    splits: list[tuple[int, int]]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    colours: NDArray[np.float64]
    emissive: NDArray[np.bool_]
    labelled: list[bool]
    ranks: NDArray[np.int64]
    normals: NDArray[np.float64]
    pictures: list[NDArray[np.uint8] | None]
    boards: list[int]
    """Which faces are boards."""


@dataclass
class Mesh:
    """Faces in the object's own frame: x forward, y left, z up, origin on the ground."""

    faces: list[Face] = field(default_factory=list)
    billboard: bool = False
    """Turns about z to face the camera; vertices are then in the y-z plane."""
    colour: str = ""
    """Name of the colour that the object is known by; empty where it has several, or a shade that
    people call by different names. A pedestrian's is that of the shirt."""

    @cached_property
    def packed(self) -> Packed:
        """The finished mesh, ready to be drawn."""
        lengths = np.array([len(face.vertices) for face in self.faces])
        ends = np.cumsum(lengths)
        corners = np.array([face.vertices[:3] for face in self.faces])
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        return Packed(
            np.concatenate([face.vertices for face in self.faces]),
            list(zip((ends - lengths).tolist(), ends.tolist(), strict=True)),
            ends - lengths,
            lengths,
            np.array([face.colour for face in self.faces], dtype=np.float64),
            np.array([face.emissive for face in self.faces]),
            [face.labelled for face in self.faces],
            np.array([face.rank for face in self.faces]),
            normals,
            [face.picture for face in self.faces],
            [index for index, face in enumerate(self.faces) if face.board],
        )

    def redrawn(
        self, colours: NDArray[np.float64], pictures: list[NDArray[np.uint8] | None] | None = None
    ) -> Mesh:
        """A copy that is drawn in other colours, [faces, 3]; this mesh stays as it is."""
        packed = self.packed
        copy = Mesh(self.faces, self.billboard, self.colour)
        copy.packed = replace(packed, colours=colours, pictures=pictures or packed.pictures)
        return copy

    def cover(self, picture: NDArray[np.uint8], last: int = 1, *, board: bool = False) -> None:
        """Give the last faces a picture."""
        self.faces[-last:] = [
            replace(face, picture=picture, board=board) for face in self.faces[-last:]
        ]

    def add(
        self,
        vertices: Sequence[Sequence[float]] | NDArray[np.float64],
        colour: Colour,
        *,
        emissive: bool = False,
        labelled: bool = True,
        rank: int = 0,
    ) -> None:
        """Append one polygon."""
        points = np.asarray(vertices, dtype=np.float64)
        self.faces.append(Face(points, colour, emissive, labelled, rank))

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        taper: float = 0.0,
        rank: int = 0,
    ) -> None:
        """Append a box, its top shortened by `taper` metres at both ends."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        t0, t1, i = x0 + taper, x1 - taper, taper * 0.3
        self.add(
            ((x0, y1, z0), (x0, y0, z0), (t0, y0 + i, z1), (t0, y1 - i, z1)), colour, rank=rank
        )
        self.add(
            ((x1, y0, z0), (x1, y1, z0), (t1, y1 - i, z1), (t1, y0 + i, z1)), colour, rank=rank
        )
        self.add(
            ((x0, y0, z0), (x1, y0, z0), (t1, y0 + i, z1), (t0, y0 + i, z1)), colour, rank=rank
        )
        self.add(
            ((x1, y1, z0), (x0, y1, z0), (t0, y1 - i, z1), (t1, y1 - i, z1)), colour, rank=rank
        )
        self.add(
            ((t0, y0 + i, z1), (t1, y0 + i, z1), (t1, y1 - i, z1), (t0, y1 - i, z1)),
            colour,
            rank=rank,
        )

    def rear(
        self,
        x: float,
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        emissive: bool = False,
    ) -> None:
        """A patch on a wall that looks backwards."""
        self.add(
            ((x, y[1], z[0]), (x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1])),
            colour,
            emissive=emissive,
            rank=1,
        )

    def front(
        self,
        x: float,
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        emissive: bool = False,
    ) -> None:
        """A patch on a wall that looks forwards."""
        self.add(
            ((x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])),
            colour,
            emissive=emissive,
            rank=1,
        )

    def sides(
        self,
        half_width: float,
        x: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        inset: float = 0.0,
    ) -> None:
        """A patch on both side walls; `inset` narrows its top at both ends."""
        (x0, x1), (z0, z1) = x, z
        self.add(
            (
                (x0, -half_width, z0),
                (x1, -half_width, z0),
                (x1 - inset, -half_width, z1),
                (x0 + inset, -half_width, z1),
            ),
            colour,
            rank=1,
        )
        self.add(
            (
                (x1, half_width, z0),
                (x0, half_width, z0),
                (x0 + inset, half_width, z1),
                (x1 - inset, half_width, z1),
            ),
            colour,
            rank=1,
        )

    def wheels(self, half_width: float, xs: Sequence[float], radius: float) -> None:
        """Wheels on both sides."""
        for x in xs:
            ring = disc(0.0, radius, radius, 8)
            for side in (-half_width, half_width):
                points = np.stack(
                    (x + ring[:, 1] * np.sign(-side), np.full(8, side), ring[:, 2]), 1
                )
                self.add(points, (25, 25, 28), rank=2)

    def flat(
        self,
        points: Sequence[tuple[float, float]],
        colour: Colour,
        *,
        emissive: bool = False,
        labelled: bool = True,
    ) -> None:
        """A polygon of a billboard: (right, up) in metres, drawn in the order of adding."""
        vertices = np.array([(0.0, -u, v) for u, v in points])
        self.add(vertices, colour, emissive=emissive, labelled=labelled, rank=len(self.faces))

    def round(
        self,
        u: float,
        v: float,
        radius: float,
        colour: Colour,
        *,
        emissive: bool = False,
        labelled: bool = True,
        corners: int = 10,
        squeeze: float = 1.0,
    ) -> None:
        """A disc of a billboard, its width scaled by `squeeze`."""
        ring = disc(u, v, radius, corners)
        self.flat(
            [(u + (p[1] - u) * squeeze, p[2]) for p in ring],
            colour,
            emissive=emissive,
            labelled=labelled,
        )

    def strip(
        self,
        u: tuple[float, float],
        v: tuple[float, float],
        colour: Colour,
        *,
        emissive: bool = False,
        labelled: bool = True,
    ) -> None:
        """An upright rectangle of a billboard."""
        self.flat(
            ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])),
            colour,
            emissive=emissive,
            labelled=labelled,
        )


def disc(u: float, v: float, radius: float, corners: int) -> NDArray[np.float64]:
    """Corners [n, 3] of a regular polygon in the y-z plane."""
    angle = (np.arange(corners) + 0.5) * 2 * np.pi / corners
    return np.stack((np.zeros(corners), u + radius * np.cos(angle), v + radius * np.sin(angle)), 1)
