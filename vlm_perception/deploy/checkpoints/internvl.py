# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How InternVL's processor shows an image to its tower, and what it writes around it."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor
from transformers import InternVLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from vlm_perception.bundle.manifest import TilesSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.views import (
    WHOLE,
    Arrangement,
    Tiles,
    TilingView,
    ViewFit,
)

# Models and tokenizers of transformers carry no types.
Model = Any


class InternVLWords(InternVLProcessor):
    """Its processor without what reads videos, which needs torchvision."""

    def check_argument_for_proper_class(self, name: str, argument: object) -> type:
        """Take whatever there is; for videos that is nothing."""
        return type(argument)


class InternVLView(TilingView):
    """Stretched to a square; tiles are cut from the image stretched over all of them."""

    def fit(self) -> ViewFit:
        """The whole comes last, and is made of the image itself."""
        size = self.processor.size
        if not (self.processor.do_resize and size.height and size.width):
            self.refuse("set size to height and width")
        tiles = None
        if self.tiles is not None:
            tiles = TilesSpec(
                columns=self.tiles.columns,
                rows=self.tiles.rows,
                whole="last",
                content=None,
                apart=True,
            )
        return ViewFit(self.stretched(size.width, size.height), tiles=tiles)

    def inputs(self, image: Image.Image) -> dict[str, Any]:
        """Cut into tiles, or as a whole."""
        cuts = self.tiles is not None
        made = self.processor(images=image, crop_to_patches=cuts, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def features(self, found: Model) -> Tensor:
        """Those of all tiles, one after the other."""
        tiles: Tensor = found.pooler_output
        return tiles.flatten(0, 1)

    def arrange(self, vlm: Model, tokenizer: Model, rows: int) -> Arrangement | None:
        """View by view, with nothing between them."""
        if self.tiles is None:
            return None
        return Arrangement(tuple(range(rows * self.tiles.views)), ())

    def _own_layout(self) -> Tiles | None:
        tiles = self._layout()
        if tiles is not None:
            self._settle(tiles)
        return tiles

    def _require(self, tiles: Tiles) -> None:
        self._settle(tiles)
        made = self._layout()
        if made != tiles:
            raise ExportError(
                f"--tiles {tiles} does not fit the camera's aspect: of an image of "
                f"{self._aspect()}, the processor of vlm/ makes {made or WHOLE}; give that"
            )

    def _layout(self) -> Tiles | None:
        """What the processor makes of an image of the camera's size."""
        size, processor = self.processor.size, self.processor
        columns, rows = get_optimal_tiled_canvas(
            (self.camera[1], self.camera[0]),
            (size.height, size.width),
            processor.min_patches,
            processor.max_patches,
        )
        return Tiles(columns, rows) if columns * rows > 1 else None

    def _settle(self, tiles: Tiles) -> None:
        """Cut every image into so many."""
        self.processor.min_patches = self.processor.max_patches = tiles.columns * tiles.rows
