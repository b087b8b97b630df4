# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A geometry shows the tower what its checkpoint would see, and only computes what is needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.checkpoints import write_spec
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessorPil,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.bundle_yaml import load_spec
from vlm_perception.deploy.checkpoints.image_processor import processor_spec
from vlm_perception.deploy.checkpoints.load import Checkpoint, load_checkpoint, round_to_half
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.input_geometry import (
    aspect_grid,
    choose_geometry,
)
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.modeling.towers.clip import ClipVision
from vlm_perception.modeling.towers.naflex import NaflexVision, at_one_resolution
from vlm_perception.modeling.towers.siglip import SiglipVision
from vlm_perception.perception.preprocess import Preprocessor, place

SIDE, PATCH = 12, 4


@pytest.fixture(scope="module", params=["siglip", "clip"])
def square(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory whose bundle.yaml leaves the geometry open."""
    source = request.getfixturevalue(f"{request.param}_checkpoint")
    copy: Path = shutil.copytree(source, tmp_path_factory.mktemp("square") / request.param)
    shutil.rmtree(copy / "vlm")
    write_spec(copy, geometry=None)
    return copy


@pytest.mark.parametrize(
    ("side", "patch", "aspect", "grid"),
    [
        (14, 16, (16, 9), (14, 8)),
        (16, 16, (16, 9), (16, 9)),
        (27, 14, (4, 3), (27, 21)),
        (14, 16, (9, 16), (8, 14)),
        (14, 16, (1, 1), (14, 14)),
        (14, 16, (99999, 1), (14, 1)),
    ],
)
def test_a_band_of_the_square_holds_the_picture(
    side: int, patch: int, aspect: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert aspect_grid(side, patch, aspect) == grid


@given(
    st.integers(1, 32),
    st.integers(8, 32),
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
    st.integers(1, 40),
)
def test_no_row_is_padding_only_and_the_picture_is_as_large_as_in_the_square(
    side: int, patch: int, aspect: tuple[int, int], factor: int
) -> None:
    columns, rows = aspect_grid(side, patch, aspect)
    assert max(columns, rows) == side
    place_of = place((aspect[0] * factor, aspect[1] * factor), (columns * patch, rows * patch))
    shorter = side * patch * min(aspect) / max(aspect)
    if shorter >= 1:
        assert abs(min(place_of.width, place_of.height) - shorter) <= 0.5
    for start, size, count in (
        (place_of.left, place_of.width, columns),
        (place_of.top, place_of.height, rows),
    ):
        assert start < patch
        assert start + size > (count - 1) * patch


@pytest.mark.parametrize(
    ("aspect", "window"),
    [("16:9", (slice(2, 9), slice(0, 12))), ("9:16", (slice(0, 12), slice(2, 9)))],
)
@torch.no_grad()
def test_a_band_is_the_square_with_the_padding_masked(
    square: Path, aspect: str, window: tuple[slice, slice]
) -> None:
    """Five of twelve rows are left out: two above, three below."""
    source = load_checkpoint(square, "same")
    geometry = choose_geometry(source, load_spec(square), ExportOptions(aspect=aspect))
    image, side = geometry.image, source.vision_parts.positions.image_size
    assert geometry.whole == (side, side)
    layers = [-2, -1]
    graph = source.family.vision(
        source.dual,
        positions=geometry.positions,
        mean=image.mean,
        std=image.std,
        feature_layers=layers,
    )
    picture = noise(image.height, image.width)
    pooled, tokens, _ = graph(torch.from_numpy(picture[np.newaxis]))
    expected, states = masked(source, picture, window)
    assert float((pooled - expected).abs().max()) <= 2e-5
    features = torch.cat([states[layer] for layer in layers], dim=-1)
    assert float((tokens - features).abs().max()) <= 2e-5


@torch.no_grad()
def test_a_bundle_for_an_aspect_gives_what_the_masked_square_gives(
    square: Path, tmp_path: Path
) -> None:
    bundle = export_bundle(square, tmp_path / "wide", ExportOptions(aspect="16:9"))
    spec = bundle.manifest
    assert (spec.image.columns, spec.image.rows, spec.vision.tokens) == (12, 7, 84)
    picture = noise(spec.image.height, spec.image.width)
    outputs = bundle.engine("vision.onnx").run({"image": picture[np.newaxis]})
    source = load_checkpoint(square, "same")
    round_to_half(source.dual)
    expected, states = masked(source, picture, (slice(2, 9), slice(0, 12)))
    assert np.abs(outputs["pooled"] - expected.numpy()).max() <= 1e-3
    assert np.abs(outputs["tokens"] - states[-1].numpy()).max() <= 1e-3


def noise(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def masked(
    source: Checkpoint, picture: np.ndarray[Any, Any], window: tuple[slice, slice]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Transformers' own modules on the whole square, all but a window masked as keys.

    Outside the window lies noise, which must not be seen. Returns the pooled embedding and, of
    each hidden state, the patches in the window.
    """
    rows, columns = window
    whole = noise(SIDE * PATCH + 1, SIDE * PATCH)[1:]
    pixels_of = tuple(slice(part.start * PATCH, part.stop * PATCH) for part in window)
    whole[pixels_of] = picture
    mean, std = (torch.tensor(values) for values in vars(source.normalisation).values())
    pixels = ((torch.from_numpy(whole).float() / 255 - mean) / std).permute(2, 0, 1)[None]
    hidden_patches = torch.ones(SIDE, SIDE, dtype=torch.bool)
    hidden_patches[rows, columns] = False
    tower, clip = source.dual.vision_model, source.family.vision is ClipVision
    hidden_keys = torch.cat([torch.zeros(int(clip), dtype=torch.bool), hidden_patches.flatten()])
    hidden = tower.embeddings(pixels)
    if clip:
        hidden = tower.pre_layrnorm(hidden)
    states = [hidden]
    bias = torch.zeros(1, 1, len(hidden_keys), len(hidden_keys))
    bias.masked_fill_(hidden_keys, float("-inf"))
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], bias))
    last = tower.post_layernorm(states[-1])
    if clip:
        pooled = source.dual.visual_projection(last[:, 0])
    else:
        head = tower.head
        mixed, _ = head.attention(head.probe, last, last, key_padding_mask=hidden_keys[None])
        pooled = (mixed + head.mlp(head.layernorm(mixed)))[:, 0]
    return pooled / pooled.norm(dim=-1, keepdim=True), [
        state[:, ~hidden_keys][:, int(clip) :] for state in states
    ]


@torch.no_grad()
def test_pixels_behind_the_last_whole_patch_are_never_read() -> None:
    """As in SigLIP so400m, whose 384 pixels are 27 patches of 14 and a rest."""
    torch.manual_seed(0)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    vision = {**shape, "num_hidden_layers": 2, "image_size": SIDE * PATCH + 3, "patch_size": PATCH}
    text = {**shape, "num_hidden_layers": 1, "projection_size": 48}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    positions = SiglipVision.parts(model.vision_model).positions
    assert positions.side == SIDE
    graph = SiglipVision(
        model,
        positions=positions.of_grid(SIDE, SIDE),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        feature_layers=[-1],
    )
    picture = noise(SIDE * PATCH + 3, SIDE * PATCH + 3)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    theirs = model.get_image_features(pixel_values=pixels).pooler_output
    read = np.ascontiguousarray(picture[np.newaxis, : SIDE * PATCH, : SIDE * PATCH])
    pooled = graph(torch.from_numpy(read))[0]
    assert float((pooled - theirs / theirs.norm()).abs().max()) <= 2e-5


@torch.no_grad()
def test_naflex_takes_a_band_as_an_image_of_its_own() -> None:
    """SigLIP 2 NaFlex interpolates its positions for each shape, and so does its bundle."""
    torch.manual_seed(0)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    vision = {**shape, "num_hidden_layers": 2, "num_patches": SIDE * SIDE, "patch_size": PATCH}
    text = {**shape, "num_hidden_layers": 1, "projection_size": 48}
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).eval()
    columns, rows = aspect_grid(SIDE, PATCH, (16, 9))
    fixed = at_one_resolution(model)
    graph = NaflexVision(
        fixed,
        positions=NaflexVision.parts(fixed.vision_model).positions.of_window(columns, rows),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        feature_layers=[-1],
    )
    picture = noise(rows * PATCH, columns * PATCH)
    processor = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=columns * rows)
    inputs = processor(Image.fromarray(picture), return_tensors="pt")
    assert inputs["spatial_shapes"].tolist() == [[rows, columns]]
    theirs = model.get_image_features(**inputs).pooler_output
    pooled = graph(torch.from_numpy(picture[np.newaxis]))[0]
    assert float((pooled - theirs / theirs.norm()).abs().max()) <= 2e-5


@pytest.mark.parametrize(
    ("geometry", "aspect", "message"),
    [
        (None, "16x9", "whole numbers, such as 16:9"),
        (None, "0:9", "whole numbers, such as 16:9"),
        ({"width": 64, "height": 36}, "16:9", "remove one"),
        ({"aspect": "wide"}, None, "whole numbers, such as 16:9"),
        ({"aspect": "16:9", "width": 64}, None, "or only aspect"),
        ({"width": 64}, None, "or only aspect"),
    ],
)
def test_a_geometry_that_contradicts_itself_gets_a_sentence(
    square: Path, tmp_path: Path, geometry: Any, aspect: str | None, message: str
) -> None:
    copy = shutil.copytree(square, tmp_path / "copy")
    write_spec(copy, geometry=geometry)
    with pytest.raises(ExportError, match=message):
        export_bundle(copy, tmp_path / "out", ExportOptions(aspect=aspect))


def test_bundle_yaml_may_give_the_aspect(square: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(square, tmp_path / "copy")
    write_spec(copy, geometry={"aspect": "4:3"})
    image = choose_geometry(load_checkpoint(copy, "same"), load_spec(copy), ExportOptions()).image
    assert (image.width, image.height, image.columns, image.rows) == (48, 36, 12, 9)


# Odd, portrait, tiny, huge, as large as the target, and far longer than wide.
AWKWARD = [(333, 777), (720, 1280), (1, 1), (3, 7), (7, 3), (4096, 2160), (224, 225), (2999, 9)]
SQUARE = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("processor", "side", "patch", "fit"),
    [
        (CLIPImageProcessorPil(), 224, 16, "crop"),
        (CLIPImageProcessorPil(size={"shortest_edge": 256}, resample=2), 224, 16, "crop"),
        (CLIPImageProcessorPil(size={"shortest_edge": 200}, resample=1), 224, 16, "crop"),
        (CLIPImageProcessorPil(size={"height": 200, "width": 301}), 224, 16, "stretch_crop"),
        (SiglipImageProcessorPil(), 224, 16, "stretch"),
        # SigLIP so400m: 27 patches of 14 and 6 pixels that no patch covers.
        (SiglipImageProcessorPil(size={"height": 384, "width": 384}), 378, 14, "stretch"),
    ],
)
def test_images_are_processed_as_transformers_does(
    processor: Any, side: int, patch: int, fit: str
) -> None:
    spec = image_spec(processor, side, patch)
    assert spec.fit == fit
    preprocessor = Preprocessor(spec)
    for width, height in AWKWARD:
        assert levels_apart(preprocessor, processor, noise(height, width)) <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.integers(1, 4))
def test_images_of_any_size_are_processed_as_transformers_does(
    width: int, height: int, edge: int, patches: int
) -> None:
    crop = {"height": 16 * patches, "width": 16 * patches}
    processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size=crop)
    preprocessor = Preprocessor(image_spec(processor, 16 * patches, 16))
    assert levels_apart(preprocessor, processor, noise(height, width)) <= 1


def image_spec(processor: Any, side: int, patch: int) -> ImageSpec:
    count = side // patch
    return ImageSpec(
        width=side,
        height=side,
        patch=patch,
        columns=count,
        rows=count,
        mean=processor.image_mean,
        std=processor.image_std,
        pad=(0, 0, 0),
        processor=processor_spec(processor),
    )


def levels_apart(preprocessor: Preprocessor, processor: Any, image: np.ndarray[Any, Any]) -> int:
    """The largest difference of a pixel before normalisation, of 255 levels."""
    ours = preprocessor.run(image)[0][0].astype(np.int16)
    theirs = processor(
        Image.fromarray(image), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0].transpose(1, 2, 0)
    return int(np.abs(ours - theirs[: ours.shape[0], : ours.shape[1]]).max())


@torch.no_grad()
def test_a_bundle_with_the_checkpoints_geometry_is_transformers_from_file_to_embedding(
    square: Path, tmp_path: Path
) -> None:
    bundle = export_bundle(square, tmp_path / "own", ExportOptions(geometry="checkpoint"))
    spec = bundle.manifest.image
    assert (spec.width, spec.height) == (48, 48)
    assert spec.fit == ("crop" if bundle.manifest.vision.family == "clip" else "stretch")
    source = load_checkpoint(square, "same")
    fast = choose_geometry(source, load_spec(square), ExportOptions(geometry="checkpoint-fast"))
    assert spec.processor is not None
    averaged = spec.processor.model_copy(update={"resample": "area"})
    assert fast.image == spec.model_copy(update={"processor": averaged})
    model = AutoModel.from_pretrained(square / "dual", dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(square / "dual", backend="pil")
    engine = bundle.engine("vision.onnx")
    letterbox = spec.model_copy(update={"processor": None})
    for picture in (noise(90, 160), noise(61, 47)):
        pixels = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        theirs = model.get_image_features(pixel_values=pixels).pooler_output[0].numpy()
        theirs /= np.linalg.norm(theirs)
        ours = engine.run({"image": Preprocessor(spec).run(picture)[0]})["pooled"][0]
        assert ours @ theirs > 0.9999
        # The comparison tells: other averages and other crops show the tower another picture.
        for other in (fast.image, letterbox):
            off = engine.run({"image": Preprocessor(other).run(picture)[0]})["pooled"][0]
            assert off @ theirs < 0.999


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (
            {"size": SQUARE, "crop_size": SQUARE},
            "outputs 224x224 pixels, but the tower takes 48x48",
        ),
        ({"do_resize": False}, "not produce images of one size"),
        (
            {"do_center_crop": False, "size": {"shortest_edge": 48}},
            "not produce images of one size",
        ),
        ({"do_pad": True}, "not produce images of one size"),
        ({"resample": 0}, "resamples with nearest; supported are bilinear"),
        ({"image_processor_type": "Idefics3ImageProcessor"}, "does more than resize"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot be loaded"),
    ],
)
def test_a_processor_that_cannot_be_followed_gets_a_sentence(
    square: Path, tmp_path: Path, settings_: dict[str, Any], message: str
) -> None:
    copy = shutil.copytree(square, tmp_path / "copy")
    file = copy / "dual" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings_))
    with pytest.raises(ExportError, match=message):
        export_bundle(copy, tmp_path / "out", ExportOptions(geometry="checkpoint"))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
