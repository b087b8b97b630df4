# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The picture that a language model's coordinates refer to, and where the camera image is in it."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.bundle.manifest import ImageSpec, Manifest, TowerSpec
from vlm_perception.perception.preprocess import Placement, place, place_as_processor
from vlm_perception.perception.views import size_by_longest_edge

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Picture:
    """Where a whole camera image is in a picture, in pixels of the picture."""

    source: tuple[int, int]
    """Width and height of the camera image."""
    size: tuple[int, int]
    """Width and height of the picture."""
    left: float
    top: float
    """Negative where the picture is cut out of the image."""
    width: float
    height: float
    processed: bool = True
    """Whether the model is shown this very picture; a server's processor may resize it."""

    def resized(self, size: tuple[int, int]) -> Picture:
        """Stretch the picture to another width and height."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        return Picture(
            source=self.source,
            size=size,
            left=self.left * across,
            top=self.top * down,
            width=self.width * across,
            height=self.height * down,
        )

    def to_source(self, box: Box) -> Box:
        """A box in pixels of the camera image, clipped to it; empty where it is beside it."""
        left, top, right, bottom = box
        across, down = self.source[0] / self.width, self.source[1] / self.height
        return (
            min(max((left - self.left) * across, 0.0), self.source[0]),
            min(max((top - self.top) * down, 0.0), self.source[1]),
            min(max((right - self.left) * across, 0.0), self.source[0]),
            min(max((bottom - self.top) * down, 0.0), self.source[1]),
        )

    def from_source(self, box: Box) -> Box:
        """A box of the camera image in pixels of the picture, clipped to it."""
        left, top, right, bottom = box
        across, down = self.width / self.source[0], self.height / self.source[1]
        return (
            min(max(left * across + self.left, 0.0), self.size[0]),
            min(max(top * down + self.top, 0.0), self.size[1]),
            min(max(right * across + self.left, 0.0), self.size[0]),
            min(max(bottom * down + self.top, 0.0), self.size[1]),
        )


def whole(source: tuple[int, int], size: tuple[int, int]) -> Picture:
    """A picture that shows all of the camera image and nothing else."""
    return Picture(source, size, 0.0, 0.0, float(size[0]), float(size[1]))


def picture_of_bundle(manifest: Manifest, source: tuple[int, int]) -> Picture:
    """What a bundle's language model takes for the picture.

    Args:
        manifest: the bundle's; it has a language model.
        source: width and height of the camera image.
    """
    language = manifest.language
    assert language is not None
    if language.tower is not None:
        return _of_tower(language.tower, source)
    all_of_it = None if language.locate is None else language.locate.whole
    return _of_image(manifest.image, source, all_of_it)


def _of_image(
    image: ImageSpec, source: tuple[int, int], all_of_it: tuple[int, int] | None = None
) -> Picture:
    """What the vision graph is shown, or the picture of which that is the middle."""
    if image.processor is not None:
        return _placed(
            place_as_processor(source, image.processor), source, size=image.processor.size
        )
    placement = place(source, (image.width, image.height))
    size = all_of_it or (image.width, image.height)
    # As the tower's positions are cut: where patches left out are odd, one more is behind.
    left, top = (
        (full - part) // image.patch // 2 * image.patch
        for full, part in zip(size, (image.width, image.height), strict=True)
    )
    return _placed(placement, source, size=size, left=left, top=top)


def _placed(
    placement: Placement,
    source: tuple[int, int],
    *,
    size: tuple[int, int],
    left: int = 0,
    top: int = 0,
) -> Picture:
    return Picture(
        source,
        size,
        float(placement.left + left),
        float(placement.top + top),
        float(placement.width),
        float(placement.height),
    )


def _of_tower(tower: TowerSpec, source: tuple[int, int]) -> Picture:
    """What a tower's processor makes of an image as a whole, which tiles only show in parts."""
    side = max(source)
    inner = source if tower.square is None else (side, side)
    fitted = inner
    if tower.longest_edge is not None:
        fitted = size_by_longest_edge(inner, tower.longest_edge)
    if tower.tiles is None:
        around = _of_image(tower.image, fitted)
    else:
        width, height = (
            tower.image.processor.size
            if tower.image.processor is not None
            else (tower.image.width, tower.image.height)
        )
        size = tower.tiles.content or (width * tower.tiles.columns, height * tower.tiles.rows)
        around = whole(fitted, size)
    # The image within what was filled up to a square around it, as `views` does.
    across, down = around.width / inner[0], around.height / inner[1]
    return Picture(
        source,
        around.size,
        around.left + (inner[0] - source[0]) // 2 * across,
        around.top + (inner[1] - source[1]) // 2 * down,
        source[0] * across,
        source[1] * down,
    )
