# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of a picture that a language model looks at, and of the camera image that is in it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import (
    BoxFormatName,
    ImageSpec,
    LocateSpec,
    Manifest,
    ProcessorSpec,
    TilesSpec,
    TowerSpec,
)
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.picture import Picture, picture_of_bundle, whole
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import PictureBox
from vlm_perception.perception.locating.formats.choice import format_of_bundle, format_of_served
from vlm_perception.perception.locating.formats.known import FORMATS
from vlm_perception.perception.locating.model import ModelLocator
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.views import Views
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MANIFEST = ModelBundle.load("roadworld-nano").manifest
CAMERA = (640, 360)


def image(width: int, height: int, processor: ProcessorSpec | None) -> ImageSpec:
    return ImageSpec(
        width=width,
        height=height,
        patch=14,
        columns=width // 14,
        rows=height // 14,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pad=(0, 0, 0),
        processor=processor,
    )


STRETCH = ProcessorSpec(resample="bicubic", resize=(224, 224), crop=None)
CROP = ProcessorSpec(resample="bicubic", resize=224, crop=(224, 224))
# Pixels after the last whole patch are not read.
REST = ProcessorSpec(resample="bicubic", resize=(230, 230), crop=None)


def tower(processor: ProcessorSpec, **fit: object) -> TowerSpec:
    return TowerSpec.model_validate(
        {
            "family": "siglip",
            "image": image(224, 224, processor),
            "tokens": 256,
            "token_width": 8,
            **fit,
        }
    )


def tiles(**fit: object) -> TilesSpec:
    return TilesSpec.model_validate(
        {"columns": 3, "rows": 2, "whole": "first", "content": None, **fit}
    )


SHARED = {
    "letterbox": image(224, 224, None),
    "band": image(224, 126, None),
    "stretch": image(224, 224, STRETCH),
    "crop": image(224, 224, CROP),
}
TOWERS = {
    "stretch": tower(STRETCH),
    "crop": tower(CROP),
    "rest": tower(REST),
    "square": tower(STRETCH, square=(0, 0, 0)),
    "longest edge": tower(STRETCH, longest_edge=512),
    "tiles": tower(STRETCH, longest_edge=672, tiles=tiles()),
    "tiles apart": tower(STRETCH, tiles=tiles(apart=True)),
    "tiles padded": tower(STRETCH, tiles=tiles(content=(672, 378))),
}


def manifest(
    shared: ImageSpec | None = None,
    own: TowerSpec | None = None,
    locate: LocateSpec | None = None,
) -> Manifest:
    language = MANIFEST.language
    assert language is not None
    changed = language.model_copy(update={"tower": own, "locate": locate})
    return MANIFEST.model_copy(update={"image": shared or MANIFEST.image, "language": changed})


def square_of_a_band() -> Manifest:
    """A band of a square of 16 x 16 patches: three rows above it, four below."""
    return manifest(SHARED["band"], locate=LocateSpec(format="paligemma", whole=(224, 224)))


def pictures(source: tuple[int, int]) -> dict[str, Picture]:
    """The picture of a camera image for every way in which a model is shown it."""
    made = {name: picture_of_bundle(manifest(spec), source) for name, spec in SHARED.items()}
    made |= {
        f"own, {name}": picture_of_bundle(manifest(own=spec), source)
        for name, spec in TOWERS.items()
    }
    made["a band of a square"] = picture_of_bundle(square_of_a_band(), source)
    sent = whole(source, (round(source[0] * 0.6), round(source[1] * 0.6)))
    made["served"] = sent.resized(FORMATS["qwen2.5-vl"].resized(sent.size))
    return made


def lit(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is bright."""
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


BOX = (160, 80, 480, 300)


def camera_image() -> np.ndarray:
    pixels = np.zeros((CAMERA[1], CAMERA[0], 3), np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = 255
    return pixels


@pytest.mark.parametrize("name", SHARED)
def test_a_box_is_where_the_vision_graph_sees_it(name: str) -> None:
    seen = Preprocessor(SHARED[name], exact=True).run(camera_image())[0][0]
    picture = picture_of_bundle(manifest(SHARED[name]), CAMERA)
    assert picture.size == (seen.shape[1], seen.shape[0])
    assert lit(seen) == pytest.approx(picture.from_source(BOX), abs=1.0)


@pytest.mark.parametrize("name", TOWERS)
def test_a_box_is_where_the_own_tower_sees_it(name: str) -> None:
    """In the view of the whole, which has the size of one tile."""
    seen = Views(TOWERS[name]).of(camera_image())[0]
    picture = picture_of_bundle(manifest(own=TOWERS[name]), CAMERA)
    processor = TOWERS[name].image.processor
    assert processor is not None
    shown = picture.resized(processor.size).from_source(BOX)
    assert lit(seen) == pytest.approx(shown, abs=1.0)


@pytest.mark.parametrize("name", [name for name, tower in TOWERS.items() if tower.tiles])
def test_a_box_is_where_the_tiles_see_it(name: str) -> None:
    """Next to each other as they were cut: the picture, or the middle of what was filled up."""
    spec = TOWERS[name].tiles
    assert spec is not None
    tiles = Views(TOWERS[name]).of(camera_image())[1:]
    canvas = np.vstack(
        [
            np.hstack(tiles[first : first + spec.columns])
            for first in range(0, len(tiles), spec.columns)
        ]
    )
    picture = picture_of_bundle(manifest(own=TOWERS[name]), CAMERA)
    left, top = (canvas.shape[1] - picture.size[0]) // 2, (canvas.shape[0] - picture.size[1]) // 2
    shown = np.add(picture.from_source(BOX), (left, top, left, top))
    assert lit(canvas) == pytest.approx(shown, abs=1.0)


def test_a_band_keeps_its_place_in_the_square() -> None:
    picture = picture_of_bundle(square_of_a_band(), (1280, 720))
    assert picture.size == (224, 224)
    assert picture.to_source((0, 42, 224, 168)) == (0, 0, 1280, 720)
    above = picture.to_source((0, 0, 224, 42))
    assert above[1] == above[3], "beside the camera's image"


@st.composite
def seen_boxes(draw: st.DrawFn) -> tuple[str, Picture, tuple[float, float, float, float]]:
    """A box of the camera image that is wholly in the picture, and not too small to be written."""
    source = draw(st.sampled_from([CAMERA, (1280, 720), (480, 640), (97, 61)]))
    name, picture = draw(st.sampled_from(sorted(pictures(source).items())))
    edges = []
    for start, length, side in (
        (picture.left, picture.width, picture.size[0]),
        (picture.top, picture.height, picture.size[1]),
    ):
        low, high = max(0.0, start), min(side, start + length)
        first = draw(st.floats(low, high - 8))
        edges.append((first, draw(st.floats(first + 8, high))))
    (left, right), (top, bottom) = edges
    return name, picture, picture.to_source((left, top, right, bottom))


@given(seen=seen_boxes(), written=st.sampled_from(sorted(FORMATS)))
def test_a_box_of_the_camera_comes_back(
    seen: tuple[str, Picture, tuple[float, float, float, float]], written: str
) -> None:
    """Within a pixel of the picture, or a step of the format's coordinates where that is more."""
    name, picture, box = seen
    boxes = FORMATS[written]
    text = boxes.write([PictureBox(*picture.from_source(box))], "cone", picture.size)
    (found,) = boxes.parse(text, picture.size, truncated=False)
    steps = {"paligemma": 1023, "kosmos-2": 32}.get(written, 1000)
    pixel = (picture.source[0] / picture.width, picture.source[1] / picture.height)
    for index, (before, after) in enumerate(zip(box, picture.to_source(found), strict=True)):
        most = max(1.0, picture.size[index % 2] / steps) * pixel[index % 2]
        assert abs(before - after) <= most + 1e-6, (name, written)


@pytest.mark.parametrize(
    ("sent", "made"),
    [
        # As smart_resize of transformers' processor with the published limits gives them.
        ((768, 432), (756, 420)),
        ((640, 360), (644, 364)),
        ((20, 20), (56, 56)),
        ((10, 1500), (28, 700)),
        ((5000, 3000), (4620, 2772)),
    ],
)
def test_pixels_are_those_of_the_servers_processor(
    sent: tuple[int, int], made: tuple[int, int]
) -> None:
    assert FORMATS["qwen2.5-vl"].resized(sent) == made
    assert FORMATS["qwen3-vl"].resized(sent) == sent


def test_a_bundle_says_how_its_model_writes_boxes() -> None:
    assert set(get_args(BoxFormatName)) == set(FORMATS)
    assert format_of_bundle(square_of_a_band()).name == "paligemma"
    with pytest.raises(LocateError, match=r"not known to write boxes; use the method patch"):
        format_of_bundle(manifest())
    with pytest.raises(LocateError, match="has no language model"):
        format_of_bundle(MANIFEST.model_copy(update={"language": None}))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2.5-vl"),
        ("qwen2.5vl:7b", "qwen2.5-vl"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2-vl"),
        ("unsloth/Qwen3-VL-2B-Instruct-GGUF", "qwen3-vl"),
        ("google/paligemma2-3b-mix-448", "paligemma"),
        ("microsoft/kosmos-2-patch14-224", "kosmos-2"),
        ("microsoft/kosmos-2.5", None),
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", None),
        ("", None),
    ],
)
def test_a_served_model_is_known_by_its_name(model: str, name: str | None) -> None:
    settings = ServedSettings(language=SERVED, model=model)
    if name is not None:
        assert format_of_served(settings).name == name
        return
    with pytest.raises(LocateError, match="set locate_format to one of"):
        format_of_served(settings)
    told = ServedSettings(language=SERVED, model=model, locate_format="qwen3-vl")
    assert format_of_served(told).name == "qwen3-vl"


def test_a_bundles_model_that_writes_prose_gives_no_box() -> None:
    """The shipped student was not taught this format."""
    bundle = ModelBundle.load("roadworld-nano")
    pixels = np.full((180, 320, 3), 90, np.uint8)
    embedding = VisionEncoder(bundle).encode(Frame(pixels, 1), 0)
    locator = ModelLocator(LanguageModel(bundle), FORMATS["qwen3-vl"])
    with pytest.raises(LocateError, match=r"did not answer with boxes \(qwen3-vl\).*: '.+'; try"):
        locator.locate(embedding, "the red cone")
    with pytest.raises(LocateError, match="cut off before its end"):
        locator.locate(embedding, "the red cone", budget_s=0.0)
    with pytest.raises(LocateError, match="is empty"):
        locator.locate(embedding, " ")
