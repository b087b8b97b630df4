# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Qwen-VL at one size of image gives what transformers gives, view and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.checkpoints import pair_up, set_config
from support.decoders import check_fewer_bits
from support.qwen_vl import TEMPLATE, make_qwen
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.image_utils import SizeDict

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LanguageSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint, round_to_half
from vlm_perception.deploy.checkpoints.qwen_vl import QwenView
from vlm_perception.deploy.checkpoints.views import TilesWish
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.validation.model_outputs import BundleModel
from vlm_perception.deploy.validation.transformers_reference import TransformersModel
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.picture import picture_of_bundle
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.choice import format_of_bundle
from vlm_perception.perception.locating.model import ModelLocator
from vlm_perception.perception.views import Views
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

TOLERANCE = 1e-3
SIZES = ((36, 64), (720, 1280))
"""Heights and widths of images of the camera's aspect."""
TOKENS = 20
"""Of an image at most; windows of 4x4 patches do not divide the 10x6 that these make."""
CAMERA = TilesWish(camera=(1280, 720), tokens=TOKENS)


@dataclass
class Pair:
    """A bundle, and transformers' own language model with the weights that it holds."""

    checkpoint: Path
    bundle: ModelBundle

    def __post_init__(self) -> None:
        folder = self.checkpoint / "vlm"
        self.vlm: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        round_to_half(self.vlm.eval())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        # Its images are whole squares of two patches of 4 pixels.
        self.processor.size = SizeDict(shortest_edge=512, longest_edge=TOKENS * 8**2)

    @property
    def language(self) -> LanguageSpec:
        language = self.bundle.manifest.language
        assert language is not None
        return language

    def inputs(self, text: str, image: NDArray[np.uint8]) -> dict[str, Any]:
        """What transformers' processors make of an image and a text."""
        made = dict(self.processor(images=Image.fromarray(image), return_tensors="pt"))
        content = [{"type": "image"}, {"type": "text", "text": text}]
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=TEMPLATE,
            tokenize=False,
            add_generation_prompt=True,
        )
        count = int(made["image_grid_thw"].prod()) // 4
        chat = chat.replace("<|image_pad|>", "<|image_pad|>" * count)
        ids = torch.tensor([self.tokenizer(chat)["input_ids"]])
        kinds = (ids == self.vlm.config.image_token_id).int()
        return {**made, "input_ids": ids, "mm_token_type_ids": kinds}


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def pair(
    request: pytest.FixtureRequest, clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    vlm = make_qwen(folder / "vlm", request.param)
    checkpoint = pair_up(folder / "checkpoint", clip_checkpoint, vlm, geometry=None, caption={})
    options = ExportOptions(aspect="16:9", image_tokens=TOKENS)
    return Pair(checkpoint, export_bundle(checkpoint, folder / "bundle", options))


def test_a_view_is_what_the_processor_makes(pair: Pair) -> None:
    assert pair.language.tower is not None
    image, patch = pair.language.tower.image, pair.language.tower.image.patch
    assert (image.width, image.height) == (40, 24)
    views, mean, std = Views(pair.language.tower), np.float32(image.mean), np.float32(image.std)
    for size in SIZES:
        theirs = pair.inputs("", photo(*size))["pixel_values"].numpy()
        ours = (views.of(photo(*size))[0] / np.float32(255) - mean) / std
        squares = ours.reshape(3, 2, patch, 5, 2, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        # Each patch twice, as two frames.
        frames = np.repeat(squares[:, :, :, :, :, None], 2, axis=5)
        assert np.abs(frames.reshape(theirs.shape) - theirs).max() < 1e-5, size


@torch.no_grad()
def test_words_are_those_of_transformers(pair: Pair) -> None:
    encoder, language = VisionEncoder(pair.bundle), LanguageModel(pair.bundle)
    language.verify()
    image = photo(36, 64)
    prefix = language.read(encoder.encode(Frame(image, 1), 0))
    for text in ("describe the scene", "what is the weather"):
        given = pair.inputs(text, image)
        theirs = pair.vlm(**given).logits[0, -1].numpy()
        ours = next(language.stream(prefix, text, max_tokens=1)).logits
        assert np.abs(ours - theirs).max() <= TOLERANCE
        written = pair.vlm.generate(**given, max_new_tokens=12, do_sample=False)
        expected = written[0, given["input_ids"].shape[1] :].tolist()
        stops = pair.language.stop_token_ids
        words = language.generate(prefix, text, max_tokens=12).token_ids
        assert list(words) == [token for token in expected if token not in stops]
    names = [pair.tokenizer.convert_ids_to_tokens(stop) for stop in pair.language.stop_token_ids]
    assert names == ["<|im_end|>", "<|endoftext|>"]


@torch.no_grad()
def test_boxes_are_asked_for_in_the_words_of_transformers(pair: Pair) -> None:
    """What random weights answer is no box but an error that shows it."""
    bundle, boxes = pair.bundle, format_of_bundle(pair.bundle.manifest)
    assert boxes.name.replace("-", "_").replace(".", "_") == pair.vlm.config.model_type
    assert picture_of_bundle(bundle.manifest, (64, 36)).size == (40, 24)
    prompt, image = boxes.prompt("the red cone"), photo(36, 64)
    given = pair.inputs(prompt, image)
    asked = "".join(pair.tokenizer.convert_ids_to_tokens(given["input_ids"][0]))
    ours = pair.language.prompt.replace("{image}", "<|image_pad|>" * 15).replace("{text}", prompt)
    assert asked == "".join(pair.tokenizer.tokenize(ours))
    language = LanguageModel(bundle, room=len(given["input_ids"][0]))
    encoded = VisionEncoder(bundle).encode(Frame(image, 1), 0)
    with pytest.raises(LocateError, match="did not answer with boxes") as caught:
        ModelLocator(language, boxes).locate(encoded, "the red cone")
    written = pair.vlm.generate(**given, max_new_tokens=8, do_sample=False)[0]
    words = pair.tokenizer.decode(
        written[given["input_ids"].shape[1] :], skip_special_tokens=True
    ).split("\ufffd")[0]
    assert repr(" ".join(words.split()))[1:-1] in str(caught.value)


def test_answers_and_captions_are_those_of_the_reference_of_a_validation(pair: Pair) -> None:
    """Packed questions; and an image of another aspect, which both get at the bundle's size."""
    source = load_checkpoint(pair.checkpoint, "own", CAMERA)
    round_to_half(source.vlm)
    theirs = TransformersModel(source, pair.bundle).predict(photo(48, 48))
    ours = BundleModel(pair.bundle).predict(photo(48, 48))
    for one, other in zip(ours.attributes, theirs.attributes, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=TOLERANCE)
    assert ours.caption[:10] == theirs.caption[:10]


def test_decoders_hold_in_fewer_bits(pair: Pair, tmp_path: Path) -> None:
    check_fewer_bits(pair.bundle, tmp_path)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"image_tokens": 800}, {}, "an image takes 784 tokens, .* or a smaller image"),
        ({"image_tokens": 0}, {}, "--image-tokens is 0; give a number above 0"),
        ({"image_tokens": 7}, {}, "makes images of 8 tokens and more; give as many"),
        ({"aspect": "300:1"}, {}, "makes no images of 1280x4 pixels: .* smaller than 200"),
        ({"tiles": "2x1+1", "aspect": "16:9"}, {}, "does not cut images into tiles"),
        ({}, {"size": {"height": 48, "width": 48}}, "set size to shortest_edge and longest_edge"),
        ({}, {"merge_size": 3}, "patches of 4 pixels, merged by 3x3, and the tower 4 and 2x2"),
    ],
)
def test_what_cannot_be_exported_gets_a_sentence(
    clip_checkpoint: Path,
    tmp_path: Path,
    options: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    vlm = make_qwen(tmp_path / "vlm", "qwen3_vl")
    set_config(vlm / "vlm/preprocessor_config.json", **changes)
    checkpoint = pair_up(tmp_path / "pair", clip_checkpoint, vlm, geometry=None, caption={})
    with pytest.raises(ExportError, match=message):
        export_bundle(checkpoint, tmp_path / "out", ExportOptions(**options))


def test_other_towers_have_one_size(clip_checkpoint: Path, tmp_path: Path) -> None:
    for kind, message in (("own", "images have one size"), ("same", "tower of its own")):
        with pytest.raises(ExportError, match=rf"--image-tokens.*{message}"):
            load_checkpoint(clip_checkpoint, kind, CAMERA)


@pytest.mark.parametrize(
    ("camera", "tokens", "size"),
    [
        # As published, squares of 32 pixels: those of 16:9 are 1.75:1.
        ((1280, 720), 256, (672, 384)),
        ((1280, 1280), 256, (512, 512)),
        ((1280, 960), 1024, (1152, 864)),
        # The processor's own largest.
        ((1280, 720), 100_000, (5440, 3072)),
    ],
)
def test_the_size_is_the_processors_for_so_many_tokens(
    tmp_path: Path, camera: tuple[int, int], tokens: int, size: tuple[int, int]
) -> None:
    vlm = make_qwen(tmp_path, "qwen3_vl") / "vlm"
    limits = {"longest_edge": 16777216, "shortest_edge": 65536}
    set_config(vlm / "preprocessor_config.json", patch_size=16, size=limits)
    assert QwenView(vlm, TilesWish(camera=camera, tokens=tokens)).size == size


def test_who_gives_no_aspect_hears_that_images_are_stretched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vlm = make_qwen(tmp_path, "qwen3_vl") / "vlm"
    for wish, words in ((CAMERA, ""), (TilesWish(guessed=True), "stretched to 128x128")):
        caplog.clear()
        QwenView(vlm, wish).fit()
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)
