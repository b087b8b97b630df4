# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far scenes may be from the plain road world: their cameras, and the street itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlm_perception.datasets.roadworld.cameras import photographed
from vlm_perception.datasets.roadworld.dressing import dressed
from vlm_perception.datasets.roadworld.photographs import (
    Photographs,
    PhotographsError,
    open_photographs,
)
from vlm_perception.datasets.roadworld.renderer import Rendered, render
from vlm_perception.datasets.roadworld.world import World

APPEARANCE_VERSION = 2
"""Changes whenever the same seed and appearance give other pixels."""
_STREAM = 23


@dataclass(frozen=True)
class Appearance:
    """The same of a seed whenever it is asked."""

    strength: float = 0.0
    """0..1, how far from the renderer's own."""
    plain: float = 0.0
    """Share of the scenes that look plain all the same."""
    photographs: Photographs | None = None
    """For sky, ground and boards on walls."""

    @property
    def name(self) -> str:
        """Ends the name of what is kept of such frames; empty for the renderer's own."""
        if not self.strength:
            return ""
        name = f"-appearance{APPEARANCE_VERSION}-{self.strength:g}"
        name += f"-plain{self.plain:g}" if self.plain else ""
        return name + (f"-{self.photographs.digest}" if self.photographs else "")

    def render(self, world: World, time: float, width: int, height: int) -> Rendered:
        """Draw a world as a random camera sees it in a random street.

        Its objects keep places, builds and the names of their colours.

        Args:
            world: stays as it is.
            time: in seconds.
            width: of the image in pixels.
            height: of the image in pixels.
        """
        if not self.strength or self._is_plain(world.seed):
            return render(world, time, width, height)
        pixels = self.photographs.pixels if self.photographs else None
        street, surfaces = dressed(world, self.strength, pixels)
        drawn = render(street, time, width, height, surfaces)
        return photographed(drawn, world.seed, self.strength, time)

    def _is_plain(self, seed: int) -> bool:
        return bool(np.random.default_rng((seed, _STREAM)).random() < self.plain)


PLAIN = Appearance()


def open_appearance(
    strength: float, plain: float = 0.0, photographs: Path | None = None
) -> Appearance:
    """An appearance with the photographs of a folder.

    Raises:
        PhotographsError: they cannot be used, or nothing would show them.
        VlmPerceptionError: an image is broken.
    """
    if photographs is None:
        return Appearance(strength, plain)
    if not strength:
        raise PhotographsError("photographs are shown where the appearance is above 0; raise it")
    return Appearance(strength, plain, open_photographs(photographs))
