# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A language model with a vision tower of its own gives what transformers gives, view and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.checkpoints import make_checkpoint, pair_up, write_spec
from transformers import AutoImageProcessor, AutoModelForImageTextToText, PreTrainedTokenizerFast

from vlm_perception.bundle.bundle import LANGUAGE_VISION_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import TowerSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import round_to_half
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.views import Views
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

TOLERANCE = 1e-3
SIZES = ((36, 64), (70, 50), (48, 48), (100, 7), (720, 1280))
"""Heights and widths of images."""


@dataclass
class Pair:
    """A bundle with two towers, and transformers' own language model with the weights in it."""

    checkpoint: Path
    bundle: ModelBundle

    def __post_init__(self) -> None:
        folder = self.checkpoint / "vlm"
        self.vlm: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        round_to_half(self.vlm.eval())
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    @property
    def tower(self) -> TowerSpec:
        language = self.bundle.manifest.language
        assert language is not None
        assert language.tower is not None
        return language.tower

    def inputs(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """What the language model's own processor makes of an image that is not cut into tiles."""
        photo = Image.fromarray(image)
        kind = self.vlm.config.model_type
        if kind == "llava_onevision":
            # transformers cuts an image into tiles only where it is the only one of its prompt.
            made = self.processor(images=[[photo, photo]], return_tensors="pt")
            one = {name: value[:1] for name, value in made.items()}
            return {**one, "pixel_values": one["pixel_values"][:, 0], "batch_num_images": [2]}
        splitting = {} if kind == "llava" else {"do_image_splitting": False}
        return dict(self.processor(images=photo, return_tensors="pt", **splitting))

    def prompt(self, text: str) -> torch.Tensor:
        language = self.bundle.manifest.language
        assert language is not None
        whole = f"<bos>{'<image>' * language.image_tokens}question: {text} answer:"
        return torch.tensor([self.tokenizer(whole, add_special_tokens=False)["input_ids"]])


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=["llava", "smolvlm", "llava_onevision"])
def pair(
    request: pytest.FixtureRequest,
    clip_checkpoint: Path,
    own_bundle: ModelBundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """LLaVA and its CLIP beside a SigLIP, and others and their SigLIP beside a CLIP."""
    if request.param == "llava":
        return Pair(clip_checkpoint, own_bundle)
    folder = tmp_path_factory.mktemp(request.param)
    decoder = {"llava_onevision": "qwen2"}.get(request.param, "llama")
    vlm = make_checkpoint(folder / "vlm", language=request.param, decoder=decoder, seed=1)
    checkpoint = pair_up(folder / "checkpoint", clip_checkpoint, vlm, geometry=None)
    return Pair(checkpoint, export_bundle(checkpoint, folder / "bundle"))


def test_a_view_is_what_the_processor_makes(pair: Pair) -> None:
    views, image = Views(pair.tower), pair.tower.image
    mean, std = np.float32(image.mean), np.float32(image.std)
    for size in SIZES:
        pixels = pair.inputs(photo(*size))["pixel_values"].numpy()
        theirs = pixels.reshape(pixels.shape[-3:]).transpose(1, 2, 0)
        ours = (views.of(photo(*size))[0] / np.float32(255) - mean) / std
        # A step of a pixel's value is 0.008 and more.
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5, size


@torch.no_grad()
def test_words_are_those_of_transformers(pair: Pair) -> None:
    encoder, language = VisionEncoder(pair.bundle), LanguageModel(pair.bundle)
    image = photo(36, 64)
    embedding = encoder.encode(Frame(image, 1), 0)
    assert embedding.tokens.size == 0 and embedding.image is image
    prefix, given = language.read(embedding), pair.inputs(image)
    for text in ("describe the scene", "what is the weather"):
        ids = pair.prompt(text)
        theirs = pair.vlm(input_ids=ids, **given).logits[0, -1].numpy()
        ours = next(language.stream(prefix, text, max_tokens=1)).logits
        assert np.abs(ours - theirs).max() <= TOLERANCE
        written = pair.vlm.generate(input_ids=ids, max_new_tokens=24, do_sample=False, **given)
        words = language.generate(prefix, text, max_tokens=24)
        stop = pair.tokenizer.eos_token_id
        expected = written[0, ids.shape[1] :].tolist()
        assert list(words.token_ids) == [token for token in expected if token != stop]


def test_shared_or_its_own_an_equal_tower_says_the_same(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    """At the processor's geometry both see the same pixels; shared tokens are sent in FP16."""
    said = []
    for kind in ("same", "own"):
        checkpoint = pair_up(
            tmp_path / kind, siglip_checkpoint, siglip_checkpoint, vision_tower=kind, geometry=None
        )
        options = ExportOptions(geometry="checkpoint")
        bundle = export_bundle(checkpoint, tmp_path / f"{kind}-bundle", options)
        encoder, reasoner = VisionEncoder(bundle), Reasoner(LanguageService(bundle))
        assert (LANGUAGE_VISION_GRAPH in bundle.manifest.files) == (kind == "own")
        seen = [encoder.encode(Frame(photo(36, 64 + i), i), i) for i in range(4)]
        said.append([reasoner.reason(each) for each in seen])
    for shared, own in zip(*said, strict=True):
        assert shared.trigger == own.trigger and shared.caption == own.caption
        for one, other in zip(shared.attributes, own.attributes, strict=True):
            assert one.value == other.value
            assert one.probabilities == pytest.approx(other.probabilities, abs=0.01)


def test_towers_of_two_families_cannot_be_the_same(
    siglip_checkpoint: Path, clip_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = pair_up(tmp_path / "crossed", siglip_checkpoint, clip_checkpoint)
    write_spec(checkpoint, vision_tower="same")
    with pytest.raises(ExportError, match=r"a clip_vision_model tower .* vision_tower: own in"):
        export_bundle(checkpoint, tmp_path / "out")
