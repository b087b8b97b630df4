# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How a language model's processor shows an image to its own vision tower: whole, or in tiles."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, Idefics3Processor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension, SizeDict

from vlm_perception.bundle.manifest import ProcessorSpec, TilesSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.image_processor import (
    RESAMPLES,
    load_processor,
    processor_spec,
)

# Processors, tokenizers and models of transformers carry no types.
Model = Any
LARGEST_EDGE = 4096
"""transformers' Idefics3ImageProcessor shrinks what is larger in a way of its own."""
WHOLE, AUTO = "1", "auto"
CAMERA_EDGE = 1280
"""Longer edge of the images by which a layout is chosen, in pixels: LLaVA-OneVision's rule depends
on it beside the aspect."""
NEWLINE = -1


@dataclass(frozen=True)
class Tiles:
    """Columns and rows of the tiles that an image is cut into, beside a view of the whole."""

    columns: int
    rows: int

    @property
    def views(self) -> int:
        """How many views of an image there are: the tiles and the whole."""
        return self.columns * self.rows + 1

    def __str__(self) -> str:
        """As it is written for `--tiles`."""
        return f"{self.columns}x{self.rows}+1"


@dataclass(frozen=True)
class TilesWish:
    """What `--tiles` and `--image-tokens` ask for."""

    layout: str = WHOLE
    """`1`, `auto`, or columns and rows as `3x2+1`."""
    camera: tuple[int, int] = (CAMERA_EDGE, CAMERA_EDGE)
    """Width and height of the camera's images."""
    tokens: int | None = None
    """Most tokens of an image, of a tower that takes any size; none: a number that it has."""
    guessed: bool = False
    """Nobody said what the camera's aspect is."""


@dataclass(frozen=True)
class ViewFit:
    """How an image becomes views; the names are those of `TowerSpec`."""

    processor: ProcessorSpec
    longest_edge: int | None = None
    square: tuple[int, int, int] | None = None
    tiles: TilesSpec | None = None


@dataclass(frozen=True)
class Arrangement:
    """Where what the decoder reads of an image comes from, one after the other."""

    order: tuple[int, ...]
    """Rows of what the projector gives for all views, then of `between`."""
    between: tuple[int, ...]
    """Tokens that stand between the views."""


def parse_tiles(text: str) -> Tiles | None:
    """Read what is written for `--tiles`, other than `auto`; None: the image as a whole.

    Raises:
        ExportError: it is written otherwise.
    """
    if text == WHOLE:
        return None
    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)\+1", text)
    if found is None:
        raise ExportError(
            f"--tiles is {text!r}; give 1 (the image as a whole), auto, or columns and rows of "
            "tiles beside the whole, such as 3x2+1"
        )
    return Tiles(int(found[1]), int(found[2]))


class View:
    """A processor that only resizes and crops, so that an image is one view."""

    def __init__(self, directory: Path, wish: TilesWish) -> None:
        """Load the processor of a language model, and choose the layout of tiles.

        Raises:
            ExportError: there is none, or it does not make such a layout.
        """
        self.processor = self._load(directory)
        self.camera, self.guessed = wish.camera, wish.guessed
        self.tiles: Tiles | None = None
        if wish.tokens is not None:
            self._limit(wish.tokens)
        if wish.layout == AUTO:
            self.tiles = self._own_layout()
        elif (tiles := parse_tiles(wish.layout)) is not None:
            self._require(tiles)
            self.tiles = tiles

    def fit(self) -> ViewFit:
        """What the processor does to an image.

        Raises:
            ExportError: it is not supported.
        """
        return ViewFit(processor_spec(self.processor))

    def inputs(self, image: Image.Image) -> dict[str, Any]:
        """Its own outputs for an image, as the model's `get_image_features` takes them."""
        return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"]}

    def span(self, tokenizer: Model, image_token: int, features: int) -> list[int]:
        """Tokens from the first to the last that stands for a feature, in transformers' prompt."""
        return [image_token] * features

    def features(self, found: Model) -> Tensor:
        """What the decoder reads of an image [N, W], of what `get_image_features` gives."""
        whole: Tensor = found.pooler_output[0]
        return whole

    def prepare(self, vlm: Model) -> None:
        """Make a model of transformers take what this processor makes."""

    def arrange(self, vlm: Model, tokenizer: Model, rows: int) -> Arrangement | None:
        """How the decoder reads tiles of which the projector gives so many rows each.

        Returns:
            None where an image is one view, which it reads as the projector gives it.

        Raises:
            ExportError: the tokenizer lacks a token that stands between them.
        """
        return None

    def _limit(self, tokens: int) -> None:
        raise ExportError(
            f"--image-tokens {tokens}: images have one size for the "
            f"{type(self.processor).__name__} of vlm/; leave --image-tokens out"
        )

    def _load(self, directory: Path) -> Model:
        return load_processor(directory)

    def _own_layout(self) -> Tiles | None:
        return None

    def _require(self, tiles: Tiles) -> None:
        raise ExportError(
            f"--tiles {tiles}: the {type(self.processor).__name__} of vlm/ does not cut images "
            "into tiles; leave --tiles out"
        )

    def _aspect(self) -> str:
        return f"{self.camera[0]}x{self.camera[1]} pixels"


class TilingView(View):
    """A processor that may cut an image into tiles."""

    def _load(self, directory: Path) -> Model:
        try:
            return AutoImageProcessor.from_pretrained(
                directory, backend="pil", local_files_only=True
            )
        # transformers raises many kinds here.
        except Exception as error:
            raise ExportError(
                f"the image processor in {directory} cannot be loaded: {error}"
            ) from error

    def refuse(self, remedy: str) -> None:
        """Raise ExportError for settings that are not supported, with what to do."""
        processor = self.processor
        raise ExportError(
            f"the {type(processor).__name__} of vlm/ with size {dict(processor.size or {})}, "
            f"do_resize {processor.do_resize} and do_center_crop "
            f"{getattr(processor, 'do_center_crop', None)} is not supported; {remedy} in "
            "vlm/preprocessor_config.json"
        )

    def stretched(self, width: int, height: int) -> ProcessorSpec:
        """Images resized to one size, by the processor's filter.

        Raises:
            ExportError: the filter is not supported.
        """
        resample = Image.Resampling(self.processor.resample).name.lower()
        if resample not in RESAMPLES:
            raise ExportError(
                f"the {type(self.processor).__name__} of vlm/ resamples with {resample}; supported "
                f"are {', '.join(RESAMPLES)}"
            )
        return ProcessorSpec.model_validate(
            {"resample": resample, "resize": (width, height), "crop": None}
        )


class Idefics3View(TilingView):
    """By way of an image of its own aspect stretched to a square, or to whole tiles."""

    def fit(self) -> ViewFit:
        """The whole is made of the tiles' image."""
        edge, longest = self._edge, self.processor.size.longest_edge
        if not self.processor.do_resize or not longest or longest > LARGEST_EDGE:
            self.refuse(f"set size to a longest_edge of at most {LARGEST_EDGE}")
        tiles = None
        if self.tiles is not None:
            tiles = TilesSpec(
                columns=self.tiles.columns, rows=self.tiles.rows, whole="last", content=None
            )
        return ViewFit(self.stretched(edge, edge), longest_edge=longest, tiles=tiles)

    def inputs(self, image: Image.Image) -> dict[str, Any]:
        """Without the mask: no pixel is padding."""
        splits = self.tiles is not None
        made = self.processor(images=image, do_image_splitting=splits, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def span(self, tokenizer: Model, image_token: int, features: int) -> list[int]:
        """As Idefics3Processor writes it: a token of its row and column before each tile."""
        if self.tiles is None:
            return super().span(tokenizer, image_token, features)
        count = features // self.tiles.views
        # It adds tokens to the tokenizer that it is given.
        tokenizer = copy.deepcopy(tokenizer)
        whole = Idefics3Processor(self.processor, tokenizer, image_seq_len=count)
        shape = {"rows": [[self.tiles.rows]], "cols": [[self.tiles.columns]]}
        text = whole.replace_image_token(shape, 0)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        places = [place for place, index in enumerate(ids) if index == image_token]
        return ids[places[0] : places[-1] + 1]

    def arrange(self, vlm: Model, tokenizer: Model, rows: int) -> Arrangement | None:
        """Tile by tile, with what stands between them."""
        if self.tiles is None:
            return None
        image, features = vlm.config.image_token_id, rows * self.tiles.views
        ids = self.span(tokenizer, image, features)
        between = tuple(dict.fromkeys(index for index in ids if index != image))
        known = vlm.get_input_embeddings().weight.shape[0]
        if any(index >= known for index in between):
            raise ExportError(
                "the tokenizer of vlm/ lacks tokens that Idefics3's processor puts between tiles "
                "(<fake_token_around_image>); export it without --tiles"
            )
        place = iter(range(features))
        order = [next(place) if i == image else features + between.index(i) for i in ids]
        return Arrangement(tuple(order), between)

    @property
    def _edge(self) -> int:
        edge: int = self.processor.max_image_size["longest_edge"]
        return edge

    def _own_layout(self) -> Tiles | None:
        return self._layout(self.processor.size.longest_edge)

    def _require(self, tiles: Tiles) -> None:
        longest = max(tiles.columns, tiles.rows) * self._edge
        made = self._layout(longest)
        if made != tiles:
            raise ExportError(
                f"--tiles {tiles} does not fit the camera's aspect: of an image of "
                f"{self._aspect()}, the processor of vlm/ makes {made or WHOLE}; give that"
            )
        self.processor.size = SizeDict(longest_edge=longest)

    def _layout(self, longest: int) -> Tiles | None:
        """What the processor itself makes of an image of the camera's size."""
        made = self.processor(
            images=Image.new("RGB", self.camera),
            size={"longest_edge": longest},
            do_image_splitting=True,
            return_row_col_info=True,
        )
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        return Tiles(columns, rows) if rows else None


class OnevisionView(TilingView):
    """Filled up to a square in the mean colour as one of several images, or anyres tiles."""

    def fit(self) -> ViewFit:
        """Tiles show the image whole, centred on black; the whole is stretched to a view."""
        size, processor = self.processor.size, self.processor
        if not (processor.do_resize and size.height and size.width) or processor.do_center_crop:
            self.refuse("set size to height and width")
        stretched = self.stretched(size.width, size.height)
        if self.tiles is None:
            red, green, blue = (int(value * 255) for value in processor.image_mean)
            return ViewFit(stretched, square=(red, green, blue))
        tiles = TilesSpec(
            columns=self.tiles.columns,
            rows=self.tiles.rows,
            whole="first",
            content=self._content(self.tiles),
        )
        return ViewFit(stretched, tiles=tiles)

    def inputs(self, image: Image.Image) -> dict[str, Any]:
        """Cut into tiles only where the image is the only one of its prompt."""
        images = [image] if self.tiles is not None else [[image, image]]
        made = self.processor(images=images, return_tensors="pt")
        if self.tiles is not None:
            return {name: made[name] for name in ("pixel_values", "image_sizes")}
        one = {"pixel_values": made["pixel_values"][0], "image_sizes": made["image_sizes"][:1]}
        return {**one, "batch_num_images": torch.tensor([2])}

    def prepare(self, vlm: Model) -> None:
        """The model finds out by itself how an image was cut."""
        if self.tiles is not None:
            vlm.config.image_grid_pinpoints = [list(self._resolution(self.tiles))]

    def arrange(self, vlm: Model, tokenizer: Model, rows: int) -> Arrangement | None:
        """As transformers packs them: the whole, then each row of patches with a newline."""
        if self.tiles is None:
            return None
        # The projector gives a newline behind each view.
        views, features = self.tiles.views, rows - 1
        places = torch.arange(views * features, dtype=torch.float32).reshape(views, features, 1)
        packed, _ = vlm.model.pack_image_features(
            [places],
            torch.tensor([[self.camera[1], self.camera[0]]]),
            image_newline=torch.tensor([float(NEWLINE)]),
            vision_aspect_ratio=vlm.config.vision_aspect_ratio,
        )
        found = packed[0].flatten()
        if not torch.equal(found, found.round()):
            raise ExportError(
                f"--tiles {self.tiles}: so many tiles are thinned out by the model "
                f"({vlm.config.vision_aspect_ratio}), which is not supported; choose fewer"
            )
        order = [
            features if each == NEWLINE else each // features * rows + each % features
            for each in map(int, found)
        ]
        return Arrangement(tuple(order), ())

    def _resolution(self, tiles: Tiles) -> tuple[int, int]:
        """Height and width of all tiles together."""
        return tiles.rows * self.processor.size.height, tiles.columns * self.processor.size.width

    def _content(self, tiles: Tiles) -> tuple[int, int]:
        """Width and height that the camera's image has on the tiles."""
        blank = np.zeros((3, self.camera[1], self.camera[0]), np.uint8)
        height, width = get_patch_output_size(
            blank, self._resolution(tiles), input_data_format=ChannelDimension.FIRST
        )
        return width, height

    def _own_layout(self) -> Tiles | None:
        pinpoints = self.processor.image_grid_pinpoints
        height, width = select_best_resolution((self.camera[1], self.camera[0]), pinpoints)
        size = self.processor.size
        tiles = Tiles(width // size.width, height // size.height)
        self._settle(tiles)
        return tiles

    def _require(self, tiles: Tiles) -> None:
        pinpoints = self.processor.image_grid_pinpoints
        if list(self._resolution(tiles)) not in [list(each) for each in pinpoints]:
            raise ExportError(
                f"--tiles {tiles} is no layout that vlm/ was trained with; its processor has "
                f"{self._written(pinpoints)}"
            )
        smaller = [
            Tiles(columns, rows)
            for columns, rows in (
                (tiles.columns - 1, tiles.rows),
                (tiles.columns, tiles.rows - 1),
            )
            if columns and rows
        ]
        for fewer in smaller:
            if self._content(fewer) == self._content(tiles):
                raise ExportError(
                    f"--tiles {tiles} does not fit the camera's aspect: an image of "
                    f"{self._aspect()} is no larger on it than on {fewer}; give that"
                )
        self._settle(tiles)

    def _settle(self, tiles: Tiles) -> None:
        self.processor.image_grid_pinpoints = [list(self._resolution(tiles))]

    def _written(self, pinpoints: Sequence[Sequence[int]]) -> str:
        size = self.processor.size
        layouts = (Tiles(width // size.width, height // size.height) for height, width in pinpoints)
        return ", ".join(str(each) for each in layouts)
